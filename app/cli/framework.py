"""The common behaviour of all command lines: how they show help and refuse wrong arguments.

The exit status is 0 only on success, 2 for wrong arguments, and 1 for everything else (`app.cli.failures`).
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


# --- Help and wrong arguments -------------------------------------------------------------------------------


class _Formatter(click.HelpFormatter):
    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, "usage: " if prefix is None else prefix)


class _Context(click.Context):
    formatter_class = _Formatter


class Option(click.Option):
    """An option that the help lists under a heading of its own."""

    def __init__(self, *args: Any, section: str = "Options", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.section = section


class Command(click.Command):
    """A command; `epilog` is printed below its options."""

    context_class = _Context

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{"context_settings": _HELP, **attributes})

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class Group(click.Group):
    """A command with subcommands."""

    context_class = _Context
    command_class = Command

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **{"context_settings": _HELP, "no_args_is_help": False, **attributes})


def run(command: click.Command, arguments: Sequence[str], program: str) -> None:
    """Runs a command and ends the process with its exit status."""
    try:
        status = command.main(list(arguments), prog_name=program, standalone_mode=False)
    except click.UsageError as error:
        if error.ctx:
            click.echo(error.ctx.get_usage(), err=True)
            program = error.ctx.command_path
        click.echo(f"{program}: error: {_describe(error)}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        sys.exit(error.format_message())
    except click.Abort:
        sys.exit("interrupted")
    sys.exit(status or 0)


def _describe(error: click.UsageError) -> str:
    if isinstance(error, click.MissingParameter) and error.param:
        return f"the following arguments are required: {_name(error.param)}"
    if isinstance(error, click.NoSuchOption):
        guess = f"; did you mean {' or '.join(error.possibilities)}?" if error.possibilities else ""
        return f"unrecognized arguments: {error.option_name}{guess}"
    if isinstance(error, click.BadParameter) and error.param:
        return f"argument {_name(error.param)}: {error.message}"
    return error.format_message()


def _name(parameter: click.Parameter) -> str:
    return parameter.human_readable_name if isinstance(parameter, click.Argument) else parameter.opts[-1]


# --- Options ------------------------------------------------------------------------------------------------


def once(*names: str, **attributes: Any) -> Callable[[F], F]:
    """Declares an option that may be given once only.

    If the last of several values silently replaced the others, a purge could delete the wrong recordings.
    """
    return click.option(*names, cls=Option, multiple=True, callback=_only, **attributes)


def _only(context: click.Context, parameter: click.Parameter, values: tuple[Any, ...]) -> Any:
    if len(values) > 1:
        raise click.BadParameter("it is given more than once", context, parameter)
    return values[0] if values else None


def exclusive(context: click.Context, *names: str, required: bool = False) -> None:
    """Raises UsageError when more than one of these parameters is given, or none of which one is `required`."""
    options = {parameter.name: parameter.opts[-1] for parameter in context.command.params}
    given = [options[name] for name in names if context.params[name]]
    if len(given) > 1:
        raise click.UsageError(f"argument {given[1]}: not allowed with argument {given[0]}", context)
    if required and not given:
        raise click.UsageError(f"one of the arguments {' '.join(options[n] for n in names)} is required", context)

"""Normal and hostile clients together: nothing is lost, answered wrongly, or left behind (`scripts/bench.py soak`)."""

from pathlib import Path

from app.embedded.servers import find_program, inherited_environment
from app.settings import Settings
from tests.support.launch import missing
from tests.support.processes import Scripts
from tests.support.sizes import FULL, SOAK_MINUTES
from tests.support.workers import BENCHMARKS


@BENCHMARKS
async def test_nothing_is_lost_or_left_behind_under_attack(elasticsearch_url: str, tmp_path: Path) -> None:
    if find_program("nginx") is None:
        missing("nginx", "apt-get install nginx")
    scripts = Scripts(Settings(elasticsearch_url=elasticsearch_url), tmp_path)
    environment = {**inherited_environment(), "RECALL_ELASTICSEARCH_URL": elasticsearch_url}
    sizes = ("--recordings", "20000" if FULL else "500", "--large", "100" if FULL else "20")
    minutes = ("--minutes", str(SOAK_MINUTES))
    status, out, err = await scripts.end(await scripts.start("bench.py", "soak", *sizes, *minutes, env=environment))
    assert status == 0, f"{out}\n{err}"
    assert " 0 failures" in out

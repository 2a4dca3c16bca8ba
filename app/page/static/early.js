// Runs before the page is painted: what was chosen before must not appear a moment later.
{
  const root = document.documentElement;
  root.classList.add("js");
  try {
    root.dataset.hidden = localStorage.getItem("recall.hidden-columns") ?? "id";
  } catch {
    root.dataset.hidden = "id"; // storage is switched off: nothing is remembered
  }
}

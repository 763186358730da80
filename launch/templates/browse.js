"use strict";
// j and k go to the next and the previous page; a followed list reloads when the run has written more.
const typing = () => ["INPUT", "SELECT"].includes(document.activeElement?.tagName) && document.activeElement.type !== "radio";
document.addEventListener("keydown", (event) => {
  const wanted = { j: "next", k: "prev" }[event.key];
  if (wanted && !typing() && !event.ctrlKey && !event.metaKey && !event.altKey) {
    document.querySelector(`a[rel=${wanted}]`)?.click();
  }
});
if (document.body.dataset.follow && location.pathname === "/") {
  const timer = setInterval(async () => {
    try {
      const answer = await fetch("/state");
      if (answer.ok && (await answer.text()) !== document.body.dataset.state && !typing()) location.reload();
    } catch {
      clearInterval(timer); // the server has ended
    }
  }, 2000);
}
for (const select of document.querySelectorAll(".filters select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

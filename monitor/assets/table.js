// A click on an element with data-run, data-sort, ... becomes a Gradio click event that carries those values.
element.addEventListener("click", (event) => {
  const target = event.target.closest("[data-pick]");
  if (target && !getSelection().toString()) trigger("click", { pick: target.dataset.pick });
});
element.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.dataset.pick) trigger("click", { pick: event.target.dataset.pick });
});

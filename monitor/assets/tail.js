// Keeps the end of a growing text in sight, unless the reader has scrolled up.
let follow = true;
const box = () => element.querySelector("pre.log");
element.addEventListener("scroll", (event) => {
  const node = event.target;
  if (node === box()) follow = node.scrollHeight - node.scrollTop - node.clientHeight < 40;
}, true);
const show = () => requestAnimationFrame(() => { if (follow && box()) box().scrollTop = box().scrollHeight; });
new IntersectionObserver(show).observe(element);
watch("value", show);

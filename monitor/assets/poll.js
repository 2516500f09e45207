// Asks the server whether anything on the open tab is new; a token that changed makes Gradio fetch it.
// Inputs: tab, run, runs compared, then the tokens (names, and one for each tab in the order of TABS).
async (tab, run, compared, names, ...tokens) => {
  if (document.hidden || !window.opened || !tab) return [names, ...tokens];  // out of sight, or not opened yet
  const query = new URLSearchParams({ tab, run: run || "" });
  for (const one of compared || []) query.append("compared", one);
  try {
    const answer = await fetch(new URL("../news?" + query, document.baseURI), { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const news = await answer.json();
    document.body.classList.remove("connection-lost");
    tokens[TABS.indexOf(tab)] = news.token;
    names = news.names;
    const place = "?" + new URLSearchParams({ tab, run: run || "" });
    if (location.search !== place) history.replaceState(null, "", place);
  } catch (error) {
    document.body.classList.add("connection-lost");
  }
  return [names, ...tokens];
}

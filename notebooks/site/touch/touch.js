// Draws the figures to touch. Each place has its Vega-Lite specification, as data, and where it is to be drawn.
for (const place of document.querySelectorAll(".touch")) {
  const specification = JSON.parse(place.querySelector("script").textContent);
  place.drawn = vegaEmbed(place.querySelector("div"), specification);
  if (specification.usermeta?.tokenizer) place.drawn.then((figure) => letType(place, figure));
}

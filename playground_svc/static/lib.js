// The one place that knows the libraries; everything else imports from here.
import { Component, h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export { useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState } from "./vendor/hooks.js";
export { Component, render };
export const html = htm.bind(h);

const asks = (query) => () => matchMedia(query).matches;
export const isTouch = asks("(pointer: coarse)");
/** Where a token's candidates are a sheet over the page's lower part (see style.css). */
export const isSheet = asks("(max-width: 560px)");

/** Return class names for what holds. */
export const classes = (names) =>
  Object.keys(names)
    .filter((name) => names[name])
    .join(" ");

/** Return a number with a sign that screen readers read and columns align with. */
export const signed = (value, digits = 2) =>
  (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

export const number = (value, digits = 2) =>
  (value < 0 ? "−" : "") + Math.abs(value).toFixed(digits);

/** Return a setting as people write it: one digit after the point, two where it has them. */
export const short = (value) => value.toFixed(2).replace(/0$/, "");

/** Return a token's text so that what cannot be seen can. */
export const visible = (text) =>
  text === "" ? "(no text)" : text.replace(/\n/g, "⏎").replace(/^ | $/g, "␣").replace(/\t/g, "⇥");

export const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Preact with its templates: plain tags in `html`, own components through `h`, which alone checks their props. */
import {h, htm} from "./vendor/preact.js";

export * from "./vendor/preact.js";
export const html = htm.bind(h);

/** Texts of others beside one another: one that runs from right to left, or says so, turns none of its neighbours round. */
import {html} from "../lib.js";

/** @param {(string | undefined)[]} texts those that are empty are left out @param {string} between */
export function apart(texts, between = " · ") {
  return texts.filter(Boolean).map((text, index) => html`${index ? between : ""}<bdi>${text}</bdi>`);
}

export {h, render, Fragment, Component} from "preact";
export {useEffect, useLayoutEffect, useMemo, useRef, useState} from "preact/hooks";
export {signal, computed, effect, batch, untracked} from "@preact/signals";
export {default as htm} from "htm";

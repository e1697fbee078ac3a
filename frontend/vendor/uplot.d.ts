/** What the charts use of uPlot; written by hand, for `tsc` alone. */
export type Data = (number | null)[][];
export default class uPlot {
  constructor(options: object, data: Data, parent: HTMLElement);
  readonly cursor: {idx: number | null | undefined};
  setData(data: Data): void;
  setSize(size: {width: number, height: number}): void;
  redraw(): void;
  destroy(): void;
}

/** What the monitor uses of Preact, Signals and htm; written by hand, for `tsc` alone. */
export interface VNode { readonly type: unknown }
export type Child = VNode | string | number | boolean | null | undefined | Child[];
export type View<P> = (props: P & {children?: Child}) => Child;
export type Ref<T> = {current: T};
export function h<P extends object>(view: View<P>, props: P & {key?: string | number}, ...children: Child[]): VNode;
export function h(tag: string, props: object | null, ...children: Child[]): VNode;
export function render(node: Child, parent: Element): void;
export const Fragment: View<object>;
export class Component<P = object, S = object> {
  constructor(props: P);
  props: P & {children?: Child};
  state: S;
  setState(change: Partial<S>): void;
  shouldComponentUpdate?(next: P, state: S): boolean;
  componentDidCatch?(error: unknown): void;
  componentDidMount?(): void;
  componentWillUnmount?(): void;
  render(props: P, state: S): Child;
}
export function useEffect(run: () => void | (() => void), inputs?: readonly unknown[]): void;
export function useLayoutEffect(run: () => void | (() => void), inputs?: readonly unknown[]): void;
export function useMemo<T>(make: () => T, inputs: readonly unknown[]): T;
export function useRef<T>(initial: T): Ref<T>;
export function useState<T>(initial: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
export interface Readable<T> { readonly value: T; peek(): T }
export interface Signal<T> extends Readable<T> { value: T }
export function signal<T>(initial: T): Signal<T>;
export function computed<T>(make: () => T): Readable<T>;
export function effect(run: () => void | (() => void)): () => void;
export function batch<T>(run: () => T): T;
export function untracked<T>(run: () => T): T;
export const htm: {bind(make: typeof h): (strings: TemplateStringsArray, ...values: unknown[]) => VNode};

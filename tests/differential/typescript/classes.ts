// === parameter properties
class User { constructor(public readonly id: number, private name: string, protected age = 18, readonly tag?: string) {} describe(): string { return `${this.id}:${this.name}:${this.age}:${this.tag}`; } } console.log(new User(1, 'a'), new User(2, 'b', 3, 't').describe());
// === parameter properties with super
class Base { log: string[] = []; constructor(public a: number) { this.log.push('base'); } } class Derived extends Base { x = this.a * 2; constructor(a: number, private b: string) { super(a); this.log.push(`derived ${this.b} ${this.x}`); } } console.log(new Derived(2, 'q'));
// === abstract classes
abstract class Shape { abstract readonly name: string; abstract area(): number; protected constructor(protected scale: number = 1) {} toString(): string { return `${this.name}(${(this.area() * this.scale).toFixed(2)})`; } static compare(a: Shape, b: Shape): number { return a.area() - b.area(); } } class Circle extends Shape { readonly name = 'Circle'; constructor(private r: number) { super(2); } override area(): number { return Math.PI * this.r ** 2; } } class Square extends Shape { name = 'Square' as const; constructor(public s: number) { super(); } area(): number { return this.s ** 2; } } console.log([new Circle(1), new Square(1.5)].sort(Shape.compare).map(String));
// === implements several
interface Flyer { fly(): string } interface Swimmer { swim(): string } class Duck implements Flyer, Swimmer { fly = (): string => 'flap'; swim(): string { return 'paddle'; } } const d: Flyer & Swimmer = new Duck(); console.log(d.fly(), d.swim(), new Duck());
// === static members
class Counter { private static instance?: Counter; static readonly MAX = 3; private n = 0; static get(): Counter { return (Counter.instance ??= new Counter()); } inc(): this { if (this.n >= Counter.MAX) throw new RangeError('max'); this.n++; return this; } get value(): number { return this.n; } static { console.log('static block', this.MAX); } } console.log(Counter.get().inc().inc().value, Counter.get() === Counter.get()); try { Counter.get().inc().inc(); } catch (e) { console.log(`${e}`); }
// === private and hash
class Mix { private soft = 1; #hard = 2; protected mid = 3; reveal(): number[] { return [this.soft, this.#hard, this.mid]; } } const m = new Mix(); console.log(m, m.reveal(), (m as any).soft, (m as any)['mid'], Object.keys(m));
// === generic classes
class Stack<T> { private items: T[] = []; push(...i: T[]): this { this.items.push(...i); return this; } pop(): T | undefined { return this.items.pop(); } peek(): T | undefined { return this.items[this.items.length - 1]; } get size(): number { return this.items.length; } *[Symbol.iterator](): Iterator<T> { for (let i = this.items.length; i--;) yield this.items[i]; } static from<U>(xs: Iterable<U>): Stack<U> { return new Stack<U>().push(...xs); } } const st = Stack.from([1, 2, 3]); console.log(st.pop(), st.peek(), st.size, [...st], new Stack<string>());
// === event emitter typed
type Events = { login: [user: string, at: number]; logout: [] }; class Emitter<E extends Record<string, unknown[]>> { private h: { [K in keyof E]?: ((...a: E[K]) => void)[] } = {}; on<K extends keyof E>(k: K, f: (...a: E[K]) => void): void { (this.h[k] ??= []).push(f); } emit<K extends keyof E>(k: K, ...a: E[K]): number { this.h[k]?.forEach(f => f(...a)); return this.h[k]?.length ?? 0; } } const em = new Emitter<Events>(); em.on('login', (u, at) => console.log(u, at)); console.log(em.emit('login', 'ann', 5), em.emit('logout'));
// === mixins typed
type Ctor<T = {}> = new (...a: any[]) => T; function Timed<B extends Ctor>(Bs: B) { return class extends Bs { created = 0; }; } function Tagged<B extends Ctor<{ name: string }>>(Bs: B) { return class Tagged extends Bs { tag(): string { return `#${this.name}`; } }; } class Thing { constructor(public name: string) {} } const TT = Tagged(Timed(Thing)); const tt = new TT('x'); console.log(tt.tag(), tt.created, tt, TT.name);
// === class expressions and this types
const Named = class Inner<T> { constructor(public v: T) {} }; class Builder { private parts: string[] = []; add(this: this, p: string): this { this.parts.push(p); return this; } build(): string { return this.parts.join('-'); } } class Sub extends Builder { twice(p: string): this { return this.add(p).add(p); } } console.log(new Named<number>(1), new Sub().twice('a').add('b').build());
// === custom errors
class AppError extends Error { constructor(message: string, public readonly code: number, options?: { cause?: unknown }) { super(message, options as any); this.name = new.target.name; Object.setPrototypeOf(this, new.target.prototype); } } class NotFound extends AppError { constructor(what: string) { super(`${what} not found`, 404); } } try { throw new NotFound('page'); } catch (e) { if (e instanceof AppError) console.log(e.name, e.code, e.message, e instanceof NotFound, `${e}`); }
// === accessors keyword
class Acc { accessor v: number = 1; static accessor s = 'st'; accessor #p = 3; get p() { return this.#p; } } const ac = new Acc(); ac.v += 4; console.log(ac.v, Acc.s, ac.p, Object.keys(ac), 'v' in ac);
// === using declarations
class Res implements Disposable { constructor(private n: string) { console.log('open', n); } [Symbol.dispose](): void { console.log('close', this.n); } } function work(): string { using a = new Res('a'); using b = new Res('b'); console.log('work'); return 'result'; } console.log(work()); { using c = new Res('c'); } try { using d = new Res('d'); throw new Error('oops'); } catch (e) { console.log((e as Error).message); }
// === await using
(async () => { await using r = { async [Symbol.asyncDispose]() { await null; console.log('async closed'); } }; console.log('inside'); })().then(() => console.log('after'));
// === new class decorators
function sealed<T extends new (...a: any[]) => object>(value: T, context: ClassDecoratorContext): T { console.log(context.kind, context.name); return class extends value { sealed = true; } as any; } function log<This, A extends any[], R>(m: (this: This, ...a: A) => R, context: ClassMethodDecoratorContext) { return function (this: This, ...a: A): R { console.log(`-> ${String(context.name)}`, a); return m.call(this, ...a); }; } function double(_: undefined, context: ClassFieldDecoratorContext) { return (v: number) => v * 2; } @sealed class S1 { @double n = 5; @log add(a: number, b: number): number { return a + b + this.n; } @log static st(): string { return 'static'; } } const s1 = new S1(); console.log(s1.add(1, 2), S1.st(), s1);
// === new accessor and getter decorators
function bound(m: Function, ctx: ClassMethodDecoratorContext) { ctx.addInitializer(function (this: any) { this[ctx.name] = this[ctx.name].bind(this); }); } function upper(get: () => string, ctx: ClassGetterDecoratorContext) { return function (this: any) { return get.call(this).toUpperCase(); }; } function logged<T>({ get, set }: ClassAccessorDecoratorTarget<any, T>, ctx: ClassAccessorDecoratorContext): ClassAccessorDecoratorResult<any, T> { return { get() { return get.call(this); }, set(v) { console.log('set', String(ctx.name), v); set.call(this, v); }, init(v) { console.log('init', v); return v; } }; } class D1 { name = 'd'; @bound hi() { return this.name; } @upper get up() { return this.name; } @logged accessor size = 1; } const d1 = new D1(); const { hi } = d1; d1.size = 4; console.log(hi(), d1.up, d1.size);
// === new decorator factories
const tags = new Map<string, string[]>(); function tag(t: string) { return function (v: unknown, ctx: DecoratorContext): void { tags.set(String(ctx.name), [...(tags.get(String(ctx.name)) ?? []), t]); }; } @tag('a') @tag('b') class T1 { @tag('m') run() {} @tag('f') field = 1; @tag('s') static st() {} } console.log(tags, new T1());
// === legacy class decorators
// experimentalDecorators
function sealed2(c: Function) { Object.seal(c); console.log('sealed', c.name); } function extra(v: number) { return <T extends { new (...a: any[]): {} }>(c: T) => class extends c { extra = v; }; }
@sealed2 @extra(7) class Legacy { n = 1; } console.log((new Legacy() as any).extra, new Legacy());
// === legacy method decorators
// experimentalDecorators
function timed(target: any, key: string, d: PropertyDescriptor): PropertyDescriptor { const f = d.value; d.value = function (...a: any[]) { console.log('call', key, a); return f.apply(this, a); }; return d; } function prop(target: any, key: string) { console.log('prop', key); } function param(target: any, key: string | undefined, i: number) { console.log('param', key, i); }
class LM { @prop x: number = 1; constructor(@param private q: number = 2) {} @timed run(@param a: string, b = 1): string { return a + b + this.x + this.q; } @timed static st() { return 's'; } @prop get g() { return 1; } } console.log(new LM().run('z'), LM.st());
// === legacy decorator order
// experimentalDecorators
const mk = (n: string) => { console.log('make', n); return (...a: any[]) => console.log('apply', n, a.length); }; @mk('c1') @mk('c2') class Ord { @mk('p') p = 1; @mk('m1') @mk('m2') m() {} @mk('s') static s = 1; }
console.log(new Ord());
// === legacy metadata style
// experimentalDecorators
const meta = new WeakMap<object, Record<string, any>>(); function Column(o: { type: string }) { return (t: any, k: string): void => { const m = meta.get(t) ?? {}; m[k] = o; meta.set(t, m); }; } function Entity(name: string): ClassDecorator { return (t: any) => { t.table = name; }; } @Entity('users') class UserE { @Column({ type: 'int' }) id!: number; @Column({ type: 'text' }) name!: string; } console.log((UserE as any).table, meta.get(UserE.prototype), Object.keys(new UserE()));
// === override and noImplicit
class P0 { greet(n?: string): string { return `p ${n}`; } get v(): number { return 1; } } class C0 extends P0 { override greet(n: string = 'd'): string { return super.greet(n) + '!'; } override get v(): number { return super.v + 1; } } console.log(new C0().greet(), new C0().v);
// === object with methods and this
const calc = { total: 0, add(n: number) { this.total += n; return this; }, get double(): number { return this.total * 2; }, async later(): Promise<number> { return this.total; }, *each(): Generator<number> { yield this.total; } }; console.log(calc.add(2).add(3).double, [...calc.each()]); calc.later().then(v => console.log(v));
// === dependency injection
type Token<T> = symbol & { __t?: T }; class Container { private f = new Map<symbol, () => unknown>(); bind<T>(t: Token<T>, f: () => T): this { this.f.set(t, f); return this; } get<T>(t: Token<T>): T { const f = this.f.get(t); if (!f) throw new Error(`no binding for ${String(t)}`); return f() as T; } } const LOG: Token<{ log(s: string): void }> = Symbol('log'); const cont = new Container().bind(LOG, () => ({ log: s => console.log('log:', s) })); cont.get(LOG).log('hi'); try { cont.get(Symbol('nope')); } catch (e: any) { console.log(e.message); }
// === linked list
class LNode<T> { constructor(public value: T, public next: LNode<T> | null = null) {} } class LinkedList<T> implements Iterable<T> { private head: LNode<T> | null = null; private length = 0; add(v: T): this { this.head = new LNode(v, this.head); this.length++; return this; } *[Symbol.iterator](): IterableIterator<T> { for (let n = this.head; n; n = n.next) yield n.value; } } console.log([...new LinkedList<string>().add('a').add('b')], new LinkedList<number>().add(1));

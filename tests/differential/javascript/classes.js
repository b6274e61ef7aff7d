// === private members
class Account { #balance = 0; static #count = 0; static { Account.label = 'acct'; } constructor() { Account.#count++; } deposit(n) { this.#check(n); this.#balance += n; return this; } #check(n) { if (n <= 0) throw new RangeError(`bad amount ${n}`); } get balance() { return this.#balance; } set balance(v) { throw new Error('read only'); } static get count() { return this.#count; } static has(o) { return #balance in o; } }
const a = new Account().deposit(5).deposit(7); console.log(a.balance, Account.count, Account.label, Account.has(a), Account.has({}), a); try { a.deposit(-1); } catch (e) { console.log(String(e)); } try { a.balance = 1; } catch (e) { console.log(e.message); }
// === inheritance
class Animal { constructor(name) { this.name = name; } speak() { return `${this.name} makes a sound`; } toString() { return `Animal(${this.name})`; } static create(...args) { return new this(...args); } }
class Dog extends Animal { speak() { return super.speak() + ': woof'; } get [Symbol.toStringTag]() { return 'Dog'; } } const d = Dog.create('Rex'); console.log(d.speak(), `${d}`, d, d instanceof Animal, Object.prototype.toString.call(d), Dog.name, Dog.length);
// === abstract by new target
class Shape { constructor() { if (new.target === Shape) throw new TypeError('abstract'); } area() { throw new Error('not implemented'); } } class Sq extends Shape { constructor(s) { super(); this.s = s; } area() { return this.s ** 2; } }
try { new Shape(); } catch (e) { console.log(e.message); } console.log(new Sq(3).area(), new Sq(2));
// === mixins
const Fly = B => class extends B { fly() { return `${this.n} flies`; } }; const Swim = B => class Swimmer extends B { swim() { return `${this.n} swims`; } }; class Base { n = 'duck'; } class Duck extends Fly(Swim(Base)) {} const dk = new Duck(); console.log(dk.fly(), dk.swim(), dk, Object.getPrototypeOf(Duck).name, Duck.__proto__.__proto__.name);
// === static blocks and fields
class Config { static defaults = { a: 1 }; static all = []; static { for (const k in this.defaults) this.all.push(k); } static x = this.all.length; y = Config.x + 1; ['comp' + 'uted'] = 3; 'quoted key' = 4; } console.log(Config.all, new Config(), Config);
// === accessors and inheritance of statics
class P { static s = 1; static get t() { return this.s * 2; } get v() { return 'p'; } } class Q extends P { static s = 5; get v() { return super.v + 'q'; } } console.log(P.t, Q.t, new Q().v, Object.keys(Q), Object.getOwnPropertyNames(Q.prototype));
// === error classes
class ValidationError extends Error { constructor(field, message, options) { super(message, options); this.name = 'ValidationError'; this.field = field; } } try { throw new ValidationError('age', 'too young', { cause: new Error('low') }); } catch (e) { console.log(e instanceof ValidationError, e instanceof Error, e.name, e.field, `${e}`, e.cause.message, Object.keys(e)); }
// === extending builtins
class Stack extends Array { peek() { return this[this.length - 1]; } static get [Symbol.species]() { return Array; } } const st = Stack.from([1, 2, 3]); console.log(st, st.peek(), st.map(x => x) instanceof Stack, st.length, Array.isArray(st)); class DM extends Map { get(k) { return super.get(k) ?? 'default'; } } console.log(new DM([[1, 2]]).get(5), new DM([[1, 2]]));
// === prototype functions
function Person(n) { if (!(this instanceof Person)) return new Person(n); this.n = n; } Person.prototype.hi = function () { return 'hi ' + this.n; }; function Student(n, s) { Person.call(this, n); this.s = s; } Student.prototype = Object.create(Person.prototype, { constructor: { value: Student } }); console.log(Person('x').hi(), new Student('y', 1).hi(), new Student('z', 2), Student.prototype instanceof Person);
// === getters on instance
const lazy = { get v() { Object.defineProperty(this, 'v', { value: 42, writable: false, enumerable: true }); return this.v; } }; console.log(lazy, lazy.v, lazy);
// === singleton and factory
const Single = (() => { let i; return class Single { constructor() { if (i) return i; i = this; this.id = 1; } }; })(); console.log(new Single() === new Single(), new Single());
// === iterator class
class LinkedList { #head = null; #size = 0; add(v) { const n = { v, next: null }; if (!this.#head) this.#head = n; else { let c = this.#head; while (c.next) c = c.next; c.next = n; } this.#size++; return this; } *[Symbol.iterator]() { for (let c = this.#head; c; c = c.next) yield c.v; } get size() { return this.#size; } reverse() { let p = null, c = this.#head; while (c) [c.next, p, c] = [p, c, c.next]; this.#head = p; return this; } } const ll = new LinkedList().add(1).add(2).add(3); console.log([...ll], [...ll.reverse()], ll.size, ll);
// === method chaining and symbols
class Temp { constructor(c) { this.c = c; } [Symbol.toPrimitive](hint) { return hint === 'string' ? `${this.c}C` : this.c; } [Symbol.for('nodejs.util.inspect.custom')]() { return `Temp<${this.c}>`; } } const t = new Temp(20); console.log(`${t}`, t + 1, t > 10, t, [t], { t });
// === super in object literals
const base = { hi() { return 'base'; } }; const derived = { __proto__: base, hi() { return super.hi() + '+derived'; } }; console.log(derived.hi(), Object.getPrototypeOf(derived) === base, derived);
// === class expression names
const A1 = class {}, B1 = class Named {}; console.log(A1.name, B1.name, A1, B1, [class {}], new A1(), new B1(), typeof A1); try { A1(); } catch (e) { console.log(e.message); }
// === private methods by wrong receiver
class Sec { #x = 1; getX() { return this.#x; } static #s() { return 's'; } static call() { return Sec.#s(); } get #p() { return this.#x + 1; } p() { return this.#p; } } console.log(new Sec().getX(), Sec.call(), new Sec().p()); try { Sec.prototype.getX.call({}); } catch (e) { console.log(e.name, e.message); }
// === async methods
class Svc { async load(id) { await null; if (id < 0) throw new Error('neg'); return { id }; } async *stream(n) { for (let i = 0; i < n; i++) yield i; } static async make() { return new Svc(); } } (async () => { const s = await Svc.make(); console.log(await s.load(1)); for await (const v of s.stream(2)) console.log(v); await s.load(-1).catch(e => console.log(e.message)); })();
// === weak references
const wm = new WeakMap(), ks = [{}, {}]; wm.set(ks[0], 'a'); console.log(wm.get(ks[0]), wm.has(ks[1]), new WeakSet([ks[0]]).has(ks[0]), new WeakRef(ks[0]).deref() === ks[0], wm); try { wm.set('x', 1); } catch (e) { console.log(e.message); }
// === event emitter subclass
const EventEmitter = require('events'); class Bus extends EventEmitter { fire(n) { return this.emit('n', n); } } const bus = new Bus(); bus.on('n', v => console.log('on', v)); bus.once('n', v => console.log('once', v)); bus.prependListener('n', () => console.log('first')); console.log(bus.fire(1), bus.fire(2), bus.listenerCount('n'), bus.emit('nothing')); try { bus.emit('error', new Error('unheard')); } catch (e) { console.log(e.message); }
// === dependency free observable
class Observable { constructor(s) { this._s = s; } static of(...v) { return new Observable(o => { v.forEach(x => o.next(x)); o.complete?.(); }); } map(f) { return new Observable(o => this._s({ ...o, next: v => o.next(f(v)) })); } subscribe(o) { this._s(o); } } Observable.of(1, 2).map(x => x * 10).subscribe({ next: v => console.log(v), complete: () => console.log('done') });

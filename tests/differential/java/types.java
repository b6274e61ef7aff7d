Types: records, sealed types, patterns, enums, generics.

// === records
import java.util.*;
public class Main {
    record Point(int x, int y) implements Comparable<Point> {
        static final Point ORIGIN = new Point(0, 0);
        Point { if (x < 0) throw new IllegalArgumentException("x: " + x); }
        Point(int both) { this(both, both); }
        double distance() { return Math.sqrt(x * x + y * y); }
        public int compareTo(Point o) { return Integer.compare(x, o.x); }
        static Point parse(String s) { var p = s.split(","); return new Point(Integer.parseInt(p[0]), Integer.parseInt(p[1])); }
    }
    record Pair<A, B>(A first, B second) { <C> Pair<A, C> with(C c) { return new Pair<>(first, c); } }
    record Named(String... names) { }
    record Empty() { }
    public static void main(String[] args) {
        Point p = new Point(3, 4);
        System.out.println(p + " " + p.distance() + " " + p.equals(new Point(3, 4)) + " " + (p.hashCode() == new Point(3, 4).hashCode()));
        System.out.println(new Point(2) + " " + Point.parse("1,2") + " " + Point.ORIGIN);
        System.out.println(new Pair<>("a", 1).with(2.5));
        System.out.println(new Named("a", "b").names().length + " " + new Empty());
        System.out.println(new TreeSet<>(List.of(new Point(5), new Point(1))));
        try { new Point(-1, 0); } catch (IllegalArgumentException e) { System.out.println(e.getMessage()); }
    }
}
// === top level record with canonical constructor
record Money(long cents, String currency) {
    Money(long cents, String currency) { this.cents = cents; this.currency = currency.toUpperCase(); }
    Money plus(Money other) { return new Money(cents + other.cents, currency); }
    @Override public String toString() { return "%d.%02d %s".formatted(cents / 100, cents % 100, currency); }
}
class Run { public static void main(String[] args) { System.out.println(new Money(150, "eur").plus(new Money(75, "eur"))); } }
// === record with main
record App(int n) { public static void main(String[] args) { System.out.println(new App(4) + " " + args.length); } }
// === interface with main
interface App { int VALUE = 5; static void main(String[] args) { System.out.println("interface " + VALUE); } }
// === enum with main
enum App { ONE, TWO; public static void main(String... args) { for (App a : values()) System.out.println(a.name() + a.ordinal()); } }
// === inherited main
class Base { public static void main(String[] args) { System.out.println("from base"); } }
// === sealed types and record patterns
public class Main {
    sealed interface Shape permits Circle, Rect, Group { }
    record Circle(double r) implements Shape { }
    record Rect(double w, double h) implements Shape { }
    record Group(Shape a, Shape b) implements Shape { }
    static double area(Shape s) {
        return switch (s) {
            case Circle c -> Math.PI * c.r() * c.r();
            case Rect(double w, double h) -> w * h;
            case Group(Circle(var r), Rect(var w, var h)) when r > 100 -> -1;
            case Group(var a, var b) -> area(a) + area(b);
        };
    }
    public static void main(String[] args) {
        System.out.printf("%.2f %.2f %.2f%n", area(new Circle(1)), area(new Rect(2, 3)), area(new Group(new Circle(1), new Rect(1, 1))));
        Object o = new Group(new Rect(1, 2), new Circle(3));
        if (o instanceof Group(Rect(double w, double h), Circle c) && w < h) System.out.println(w + h + c.r());
    }
}
// === sealed top level hierarchy
sealed interface Expr permits Num, Add, Mul, Neg { }
record Num(int value) implements Expr { }
record Add(Expr left, Expr right) implements Expr { }
record Mul(Expr left, Expr right) implements Expr { }
record Neg(Expr inner) implements Expr { }
public class Main {
    static int eval(Expr e) {
        return switch (e) {
            case Num n -> n.value();
            case Add(Expr l, Expr r) -> eval(l) + eval(r);
            case Mul(Expr l, Expr r) -> eval(l) * eval(r);
            case Neg(Expr i) -> -eval(i);
        };
    }
    static String show(Expr e) {
        if (e instanceof Num(int v)) return String.valueOf(v);
        if (e instanceof Add(var l, var r)) return "(" + show(l) + " + " + show(r) + ")";
        if (e instanceof Mul m) return show(m.left()) + " * " + show(m.right());
        return "-" + show(((Neg) e).inner());
    }
    public static void main(String[] args) {
        Expr e = new Add(new Num(2), new Mul(new Num(3), new Neg(new Num(4))));
        System.out.println(show(e) + " = " + eval(e));
        System.out.println(e);
    }
}
// === sealed classes, final and non-sealed
abstract sealed class Vehicle permits Car, Truck { abstract int wheels(); }
final class Car extends Vehicle { int wheels() { return 4; } }
non-sealed class Truck extends Vehicle { int wheels() { return 6; } }
class BigTruck extends Truck { int wheels() { return 18; } }
class Fleet {
    public static void main(String[] args) {
        for (Vehicle v : new Vehicle[] {new Car(), new Truck(), new BigTruck()})
            System.out.println(v.getClass().getSimpleName() + " " + v.wheels() + " " + v.getClass().isSealed());
        System.out.println(Vehicle.class.getPermittedSubclasses().length + " " + Vehicle.class.isSealed());
    }
}
// === pattern switch with guards and null
public class Main {
    static String describe(Object o) {
        return switch (o) {
            case null -> "null!";
            case Integer i when i > 100 -> "big " + i;
            case Integer i -> "int " + i;
            case String s when s.isEmpty() -> "empty";
            case String s -> "string " + s.length();
            case int[] a -> "array " + a.length;
            case Enum<?> e -> "enum " + e.name();
            case CharSequence c -> "chars";
            default -> o.getClass().getName();
        };
    }
    enum Color { RED }
    public static void main(String[] args) {
        for (Object o : new Object[] {null, 5, 500, "", "abc", new int[3], Color.RED, new StringBuilder(), 2.5, new Object[0]}) System.out.println(describe(o));
    }
}
// === instanceof patterns
import java.util.*;
public class Main {
    static class P { final int x; P(int x) { this.x = x; } @Override public boolean equals(Object o) { return o instanceof P p && p.x == x; } @Override public int hashCode() { return x; } }
    public static void main(String[] args) {
        Object o = List.of("a", "b");
        if (o instanceof List<?> l && !l.isEmpty() && l.get(0) instanceof String s) System.out.println(s + l.size());
        if (!(o instanceof Map<?, ?> m)) { System.out.println("no map"); return; }
        System.out.println(m.size());
    }
}
// === enum constants with bodies
import java.util.*;
enum Operation {
    PLUS("+") { double apply(double a, double b) { return a + b; } },
    MINUS("-") { double apply(double a, double b) { return a - b; } },
    TIMES("*") { double apply(double a, double b) { return a * b; } @Override boolean commutes() { return true; } };
    final String symbol;
    Operation(String symbol) { this.symbol = symbol; }
    abstract double apply(double a, double b);
    boolean commutes() { return this == PLUS; }
    private static final Map<String, Operation> BY = new HashMap<>();
    static { for (Operation o : values()) BY.put(o.symbol, o); }
    static Optional<Operation> of(String s) { return Optional.ofNullable(BY.get(s)); }
}
public class Main {
    public static void main(String[] args) {
        for (Operation o : Operation.values()) System.out.println(o + " " + o.symbol + " " + o.apply(6, 3) + " " + o.commutes() + " " + o.getDeclaringClass().getName() + " " + o.getClass().getName());
        System.out.println(Operation.of("*") + " " + Operation.of("?") + " " + Operation.valueOf("MINUS").compareTo(Operation.TIMES));
        try { Operation.valueOf("NONE"); } catch (IllegalArgumentException e) { System.out.println(e.getMessage()); }
    }
}
// === enum map, set and switch
import java.util.*;
public class Main {
    enum Level { LOW, MID, HIGH; Level next() { return values()[(ordinal() + 1) % values().length]; } }
    interface HasCode { int code(); }
    enum Http implements HasCode { OK(200), MISSING(404); private final int c; Http(int c) { this.c = c; } public int code() { return c; } }
    public static void main(String[] args) {
        EnumMap<Level, Integer> m = new EnumMap<>(Level.class);
        m.put(Level.HIGH, 3); m.put(Level.LOW, 1);
        System.out.println(m + " " + EnumSet.complementOf(EnumSet.of(Level.MID)) + " " + EnumSet.range(Level.LOW, Level.MID) + Level.HIGH.next());
        for (HasCode h : Http.values()) System.out.println(h + " " + h.code());
        switch (Level.MID) { case LOW: System.out.println("l"); break; case MID: System.out.println("m"); default: System.out.println("fall"); }
    }
}
// === generics and wildcards
import java.util.*;
import java.util.function.*;
public class Main {
    static <T extends Comparable<? super T>> T max(Collection<? extends T> c) { Iterator<? extends T> i = c.iterator(); T best = i.next(); while (i.hasNext()) { T n = i.next(); if (n.compareTo(best) > 0) best = n; } return best; }
    static double sum(List<? extends Number> l) { double s = 0; for (Number n : l) s += n.doubleValue(); return s; }
    static void fill(List<? super Integer> l) { for (int i = 0; i < 3; i++) l.add(i); }
    static <A, B> List<B> map(List<A> in, Function<? super A, ? extends B> f) { List<B> out = new ArrayList<>(); for (A a : in) out.add(f.apply(a)); return out; }
    static class Box<T> { private T v; Box(T v) { this.v = v; } T get() { return v; } <R> Box<R> map(Function<T, R> f) { return new Box<>(f.apply(v)); } @Override public String toString() { return "Box(" + v + ")"; } }
    static class Node<K extends Comparable<K>, V> { K k; V v; Node<K, V> l, r; Node(K k, V v) { this.k = k; this.v = v; } void put(K k, V v) { int c = k.compareTo(this.k); if (c == 0) this.v = v; else if (c < 0) { if (l == null) l = new Node<>(k, v); else l.put(k, v); } else { if (r == null) r = new Node<>(k, v); else r.put(k, v); } } void walk(BiConsumer<K, V> f) { if (l != null) l.walk(f); f.accept(k, v); if (r != null) r.walk(f); } }
    static <T extends Comparable<T> & java.io.Serializable> T pick(T a, T b) { return a.compareTo(b) < 0 ? a : b; }
    @SafeVarargs static <T> List<T> listOf(T... items) { return new ArrayList<>(Arrays.asList(items)); }
    public static void main(String[] args) {
        System.out.println(max(List.of(3, 9, 2)) + max(Set.of("a")) + sum(List.of(1, 2.5f, 3L)));
        List<Number> n = new ArrayList<>(); fill(n); System.out.println(n);
        System.out.println(map(listOf("a", "bb"), String::length) + " " + new Box<>(4).map(x -> "v" + x));
        Node<String, Integer> t = new Node<>("m", 1); t.put("a", 2); t.put("z", 3); t.put("m", 4); t.walk((k, v) -> System.out.print(k + v + " "));
        System.out.println(pick("x", "b") + Main.<Integer>listOf().size());
        var r = (Runnable & java.io.Serializable) () -> System.out.println("both");
        r.run(); System.out.println(r instanceof java.io.Serializable);
    }
}

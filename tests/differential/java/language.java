Language features from Java 8 to 21.

// === lambdas and method references
import java.util.*;
import java.util.function.*;
public class Main {
    interface TriFunction<A, B, C, R> { R apply(A a, B b, C c); }
    static int twice(int n) { return n * 2; }
    int base = 10;
    int add(int n) { return base + n; }
    public static void main(String[] args) {
        Function<Integer, Integer> f = Main::twice, g = new Main()::add;
        System.out.println(f.andThen(g).apply(5) + " " + f.compose(g).apply(5));
        Supplier<List<String>> make = ArrayList::new;
        List<String> list = make.get();
        list.add("b"); list.add("a");
        list.sort(String::compareTo);
        System.out.println(list);
        TriFunction<Integer, Integer, Integer, Integer> sum = (a, b, c) -> a + b + c;
        System.out.println(sum.apply(1, 2, 3));
        IntFunction<int[]> array = int[]::new;
        System.out.println(array.apply(3).length);
        BiFunction<String, Integer, Character> at = String::charAt;
        System.out.println(at.apply("hello", 1));
        Runnable r = () -> { class Local { public String toString() { return "local"; } } System.out.println(new Local()); };
        r.run();
        UnaryOperator<UnaryOperator<Integer>> apply2 = op -> x -> op.apply(op.apply(x));
        System.out.println(apply2.apply(x -> x + 3).apply(1));
    }
}
// === interface methods
public class Main {
    interface Greeter {
        String name();
        default String greet() { return prefix() + name() + suffix(); }
        private String prefix() { return "Hello, "; }
        static Greeter of(String n) { return () -> n; }
        private static String bang() { return "!"; }
        default String suffix() { return bang(); }
    }
    interface A { default String who() { return "A"; } }
    interface B { default String who() { return "B"; } }
    static class C implements A, B { public String who() { return A.super.who() + B.super.who(); } }
    public static void main(String[] args) {
        System.out.println(Greeter.of("World").greet());
        System.out.println(new C().who());
    }
}
// === var and for each
import java.util.*;
class Demo {
    public static void main(String[] args) {
        var map = new TreeMap<String, List<Integer>>();
        map.computeIfAbsent("x", k -> new ArrayList<>()).add(1);
        map.computeIfAbsent("x", k -> new ArrayList<>()).add(2);
        for (var entry : map.entrySet()) System.out.println(entry.getKey() + "=" + entry.getValue());
        var anon = new Object() { int count = 3; int next() { return ++count; } };
        System.out.println(anon.next() + anon.count);
        java.util.function.BinaryOperator<Integer> f = (var a, var b) -> a * b;
        System.out.println(f.apply(6, 7));
    }
}
// === switch expressions
public class Main {
    enum Day { MON, TUE, SAT, SUN }
    static String kind(Day d) {
        return switch (d) { case SAT, SUN -> "weekend"; case MON -> { String s = "start"; yield s.toUpperCase(); } default -> "week"; };
    }
    static int old(String s) {
        switch (s) { case "a": return 1; case "b": case "c": return 2; default: return s.length(); }
    }
    public static void main(String[] args) {
        for (Day d : Day.values()) System.out.println(d + " " + kind(d) + " " + d.ordinal());
        System.out.println(old("a") + old("c") + old("long"));
        int x = 3;
        int y = switch (x) { case 1: yield 10; case 3: yield 30; default: yield 0; };
        System.out.println(y);
        switch (x) { case 1 -> System.out.println("one"); case 3 -> System.out.println("three"); }
        char c = 'b';
        switch (c) { case 'a': System.out.println("a"); case 'b': System.out.println("b"); case 'c': System.out.println("c"); break; case 'd': System.out.println("d"); }
    }
}
// === text blocks
public class Main {
    public static void main(String[] args) {
        String json = """
            {
              "name": "Ada",\tx
              "quote": "say \"hi\" \\ """ + "end" + """
              one \
              line
              trailing   \s
            """;
        System.out.print(json);
        System.out.println("""
            a
              b""".indent(2) + "|");
        System.out.println("""
            Total: %d of %s""".formatted(3, "five"));
    }
}
// === initialisers and their order
public class Main {
    static StringBuilder log = new StringBuilder();
    static class Base { static { log.append("Bs "); } { log.append("Bi "); } Base() { log.append("Bc "); hook(); } void hook() { log.append("Bh "); } }
    static class Sub extends Base { int v = 7; static { log.append("Ss "); } { log.append("Si" + v + " "); } Sub() { super(); log.append("Sc" + v + " "); } @Override void hook() { log.append("Sh" + v + " "); } }
    public static void main(String[] args) { new Sub(); new Sub(); System.out.println(log); }
}
// === inner, nested, local and anonymous classes
import java.util.*;
public class Main {
    private int count = 0;
    class Inner { int id = ++count; class Deep { String path() { return "deep" + id + count; } } }
    static class Nested { private int secret = 42; }
    Iterator<Integer> upTo(int n) { return new Iterator<>() { int i = 0; public boolean hasNext() { return i < n; } public Integer next() { return i++; } }; }
    public static void main(String[] args) {
        Main m = new Main();
        Main.Inner a = m.new Inner(), b = m.new Inner();
        Main.Inner.Deep d = a.new Deep();
        System.out.println(d.path() + b.id + new Nested().secret);
        Iterator<Integer> it = m.upTo(3);
        while (it.hasNext()) System.out.print(it.next() + " ");
        System.out.println();
        int captured = 5;
        class Local { int get() { return captured + m.count; } }
        System.out.println(new Local().get());
        record Pair(int a, int b) { }
        enum E { X, Y }
        interface I { int f(int x); }
        I i = x -> x * captured;
        System.out.println(new Pair(1, 2) + " " + E.Y + " " + i.f(3));
        System.out.println(a.getClass().getName() + " " + it.getClass().getName() + " " + new Local().getClass().getName() + " " + Pair.class.getName() + " " + new Object() { }.getClass().getName());
        System.out.println(a.getClass().getSimpleName() + "|" + it.getClass().getSimpleName() + "|" + Local.class.getSimpleName() + "|" + Main.Inner.Deep.class.getCanonicalName() + "|" + E.class.isLocalClass());
    }
}
// === varargs and overloads
public class Main {
    static String f(int... x) { return "ints" + x.length; }
    static String f(Object o) { return "object"; }
    static String f(long l) { return "long"; }
    static String f(Integer i) { return "Integer"; }
    static String g(String s, Object... o) { return s + (o == null ? "null" : o.length); }
    public static void main(String... args) {
        byte b = 1; char c = 'c'; short s = 2;
        System.out.println(f() + f(1, 2) + f(1) + f(b) + f(c) + f(1.5) + f("s") + f((Integer) 3) + f(s));
        System.out.println(g("a") + g("a", 1, "x") + g("a", (Object[]) null) + g("a", new Object[] {1, 2}) + g("a", (Object) new int[] {1}));
    }
}
// === labelled loops
public class Main {
    public static void main(String[] args) {
        outer:
        for (int i = 0; ; i++) {
            for (int j = 0; j < 5; j++) {
                if (j == 3) continue outer;
                if (i == 2) break outer;
                System.out.print(i + "" + j + " ");
            }
        }
        System.out.println();
        block: { if (args.length == 0) break block; System.out.println("not reached"); }
        int n = 0; do { n += 2; } while (n < 7); System.out.println(n);
        for (int a = 0, b = 10; a < b; a++, b--) if (a + 1 == b - 1) System.out.println(a + " " + b);
        int k = 5; while (k --> 0) { if (k % 2 == 0) continue; System.out.print(k); } System.out.println();
    }
}
// === annotations
import java.lang.annotation.*;
import java.lang.reflect.*;
import java.util.*;
@Retention(RetentionPolicy.RUNTIME) @Target({ElementType.METHOD, ElementType.TYPE}) @Repeatable(Tags.class) @interface Tag { String value(); int level() default 1; }
@Retention(RetentionPolicy.RUNTIME) @Target({ElementType.METHOD, ElementType.TYPE}) @interface Tags { Tag[] value(); }
@Retention(RetentionPolicy.RUNTIME) @Target(ElementType.TYPE_USE) @interface NonEmpty { }
@Retention(RetentionPolicy.RUNTIME) @interface Test { Class<? extends Throwable> expected() default None.class; class None extends Throwable { } }
@Tag("one") @Tag(value = "two", level = 2)
public class Main {
    @Test void passes() { }
    @Test(expected = ArithmeticException.class) void divides() { System.out.println(1 / (hashCode() - hashCode())); }
    @Test void fails() { throw new IllegalStateException("bad"); }
    @Deprecated static @NonEmpty String name() { return "n"; }
    public static void main(String[] args) throws Exception {
        for (Tag t : Main.class.getAnnotationsByType(Tag.class)) System.out.println(t.value() + t.level());
        System.out.println(Main.class.getAnnotation(Tags.class));
        Method[] all = Main.class.getDeclaredMethods();
        Arrays.sort(all, Comparator.comparing(Method::getName));
        for (Method m : all) {
            Test t = m.getAnnotation(Test.class);
            if (t == null) continue;
            try { m.invoke(new Main()); System.out.println(m.getName() + " ok"); }
            catch (InvocationTargetException e) { System.out.println(m.getName() + (t.expected().isInstance(e.getCause()) ? " expected " : " failed ") + e.getCause()); }
        }
        Method n = Main.class.getDeclaredMethod("name");
        System.out.println(Arrays.toString(n.getAnnotations()) + " " + n.getAnnotatedReturnType());
    }
}
// === try with resources
public class Main {
    static class R implements AutoCloseable { final String n; R(String n) { this.n = n; System.out.println("open " + n); } public void close() throws Exception { System.out.println("close " + n); if (n.equals("bad")) throw new Exception("close " + n); } }
    public static void main(String[] args) {
        try (R a = new R("a"); R b = new R("b")) { System.out.println("body"); } catch (Exception e) { System.out.println("never"); } finally { System.out.println("finally"); }
        try (R a = new R("a"); R b = new R("bad")) { throw new IllegalStateException("body"); }
        catch (Exception e) { System.out.println(e + " suppressed " + e.getSuppressed()[0]); }
        R shared = new R("shared");
        try (shared) { System.out.println(shared.n); } catch (Exception e) { }
        try (R none = null) { System.out.println("null is fine"); } catch (Exception e) { }
    }
}
// === finally and return
public class Main {
    @SuppressWarnings("finally") static int f() { try { return 1; } finally { return 2; } }
    static int g() { int x = 1; try { return x; } finally { x = 5; } }
    static String h() { StringBuilder s = new StringBuilder("t"); try { throw new RuntimeException(); } catch (RuntimeException e) { s.append("c"); return s.append("r").toString(); } finally { s.append("f"); System.out.println(s); } }
    static int loop() { for (int i = 0; ; i++) { try { if (i == 3) return i; continue; } finally { System.out.print("f" + i + " "); } } }
    public static void main(String[] args) { System.out.println(f() + " " + g() + " " + h() + " " + loop()); }
}
// === static nested generics and recursion
import java.util.function.*;
public class Main {
    interface Stack<T> { boolean isEmpty(); T top(); Stack<T> pop(); default Stack<T> push(T t) { return new Cons<>(t, this); }
        static <T> Stack<T> empty() { return new Nil<>(); }
        record Nil<T>() implements Stack<T> { public boolean isEmpty() { return true; } public T top() { throw new IllegalStateException("empty"); } public Stack<T> pop() { return this; } }
        record Cons<T>(T top, Stack<T> pop) implements Stack<T> { public boolean isEmpty() { return false; } } }
    static final Function<Integer, Integer> FIB = new Function<>() { public Integer apply(Integer n) { return n < 2 ? n : this.apply(n - 1) + this.apply(n - 2); } };
    public static void main(String[] args) {
        Stack<String> s = Stack.<String>empty().push("a").push("b");
        System.out.println(s + " " + s.top() + s.pop().top() + s.pop().pop().isEmpty() + FIB.apply(15));
    }
}
// === class above its superclass
class Dog extends Animal { Dog(String n) { super(n, 4); } String sound() { return "Woof"; } }
class Puppy extends Dog { Puppy() { super("pup"); } @Override String sound() { return super.sound().toLowerCase(); } }
abstract class Animal implements Named { protected final String name; private final int legs; Animal(String name, int legs) { this.name = name; this.legs = legs; } abstract String sound(); public String name() { return name + legs; } @Override public String toString() { return getClass().getSimpleName() + ":" + name() + ":" + sound(); } }
interface Named { String name(); }
class Zoo { public static void main(String[] args) { System.out.println(new Dog("rex") + " " + new Puppy()); } }
// === mutual references between classes
class Ping { static int play(int n) { return n == 0 ? 0 : 1 + Pong.play(n - 1); } Pong other; }
class Pong { static int play(int n) { return n == 0 ? 0 : 1 + Ping.play(n - 1); } Ping other = new Ping(); }
class Game { public static void main(String[] args) { Pong p = new Pong(); p.other.other = p; System.out.println(Ping.play(7) + " " + (p.other.other == p)); } }
// === package line
package com.example.shop;

import java.util.List;

public class Main {
    interface Priced { int price(); }
    record Item(String name, int price) implements Priced { }
    public static void main(String[] args) {
        System.out.println(List.of(new Item("pen", 2)) + " " + Main.class.getName() + " " + Main.class.getPackageName() + " " + new Helper().getClass());
    }
}
class Helper { }
// === star imports that shadow
import java.sql.*;
import java.awt.*;
public class Main {
    public static void main(String[] args) {
        Date d = Date.valueOf("2024-02-03");
        System.out.println(d + " " + d.getClass().getName() + " " + new Point(1, 2) + " " + new Dimension(3, 4).width + " " + List.class.getName() + " " + Array.class.getName());
    }
}
// === names of the JDK used for own classes
public class Main {
    static class String2 { }
    static class Record { int v = 1; }
    static class Thread { void start() { System.out.println("my thread"); } }
    public static void main(String[] args) { new Thread().start(); System.out.println(new Record().v + " " + new List("x") + " " + new Object()); }
}
class List { String s; List(String s) { this.s = s; } public String toString() { return "List:" + s; } }
class Object extends java.lang.Object { public String toString() { return "own object"; } }
// === static imports
import static java.lang.Math.*;
import static java.util.stream.Collectors.joining;
import static java.util.Map.entry;
import java.util.*;
import java.util.stream.Stream;
public class Main { public static void main(String[] args) { System.out.println(max(3, 4) + abs(-2) + floorMod(-7, 3) + Stream.of("a", "b").collect(joining("+")) + new TreeMap<>(Map.ofEntries(entry("k", 1))) + (int) (PI * 100)); } }
// === unicode identifiers and escapes
public class Main {
    static int größe = 3; static final String 名前 = "花子"; enum Été { JUIN }
    public static void main(String[] args) { int \u0061b = 4; System.out.println(größe + ab + 名前 + Été.JUIN + '\u00e9' + "\t|\101|\0".length() + "😀".length() + "😀".codePointAt(0)); }
}
// === integer arithmetic
public class Main {
    public static void main(String[] args) {
        System.out.println(Integer.MAX_VALUE + 1); System.out.println((byte) 200 + " " + (short) 70000 + " " + (int) 3.99e10 + " " + (long) Double.NaN + " " + (char) 97);
        System.out.println(-7 / 2 + " " + -7 % 2 + " " + Math.floorDiv(-7, 2) + " " + (7 >> 1) + (-7 >> 1) + " " + (-7 >>> 28) + " " + (1 << 33) + " " + (1L << 33));
        try { Math.addExact(Integer.MAX_VALUE, 1); } catch (ArithmeticException e) { System.out.println(e.getMessage()); }
        int i = 5; i = i++ + ++i; System.out.println(i); i += 3.7; System.out.println(i); int x = 'a' + 1; char c = 'a'; c += 1; System.out.println(x + " " + c + (char) (c + 1) + ('a' + 'b') + "" + 'a' + 'b');
        System.out.println(0x7f + 0b101 + 017 + 1_000 + " " + Integer.toBinaryString(-8 >>> 28) + Integer.toHexString(-1) + Long.parseUnsignedLong("18446744073709551615") + " " + Integer.reverse(1) + Integer.bitCount(255));
        System.out.println(1.0 / 0 + " " + 0.0 / 0 + " " + (0.1 + 0.2) + " " + (float) 0.1 + " " + 1e10 + " " + 100.0 + " " + 1.0e-5 + " " + Double.MIN_VALUE + " " + (0.0 == -0.0) + Double.valueOf(0.0).equals(-0.0) + " " + 5 % 2.5);
        Integer a = 127, b = 127, d = 1000, e = 1000; System.out.println((a == b) + " " + d.equals(e) + " " + Long.valueOf(1).equals(1));
        System.out.println(Math.round(-2.5) + " " + Math.rint(2.5) + " " + (int) 'x' + " " + (5 & 3 | 4 ^ 1) + " " + ~7 + " " + (true ^ false) + " " + (short) (byte) -1);
    }
}
// === strings and interning
public class Main {
    public static void main(String[] args) {
        String a = "hi", b = "hi", c = new String("hi"); final String h = "h"; String n = "h";
        System.out.println((a == b) + " " + (a == c) + " " + (a == c.intern()) + " " + (a == h + "i") + " " + (a == n + "i") + " " + a.equals(c));
        String s = null; s += "x"; System.out.println(s + 1 + 2 + (1 + 2) + 'c' + 1.0f + null + true);
        System.out.println("a,b,,c,,".split(",").length + " " + "a1b22c".replaceAll("\\d+", "#") + " " + String.join("-", "x", "y") + " " + "abc".repeat(2) + " " + "  t ".strip() + "|" + "x".compareTo("b") + " " + "Hello".chars().filter(ch -> ch == 'l').count());
        System.out.println("a\nb\nc".lines().toList() + " " + "ß".toUpperCase() + " " + "İ".toLowerCase().length() + " " + "abc".contains("") + "abcabc".lastIndexOf("bc") + "abc".indexOf('z') + " " + "%s".formatted("f") + " " + "é".getBytes(java.nio.charset.StandardCharsets.UTF_8).length + " " + "hello".hashCode());
        StringBuilder sb = new StringBuilder("hello"); sb.insert(0, 'J').reverse().setCharAt(0, 'X'); sb.deleteCharAt(1).append(1).append('c').append(new char[] {'y'}); System.out.println(sb + " " + sb.length());
        System.out.println(String.valueOf(new char[] {'o', 'k'}) + "b".equals(null) + "tEST".equalsIgnoreCase("TesT") + "x".isBlank() + " " + "a-b".translateEscapes() + "abc".charAt(2) + "abcdef".substring(2, 4) + " " + "b".concat("c") + "mad am".strip().indent(1).stripTrailing());
    }
}
// === arrays
import java.util.*;
public class Main {
    public static void main(String[] args) {
        int[][] m = {{1, 2, 3}, {4, 5, 6}}; int[][] jag = new int[3][]; jag[1] = new int[] {9};
        System.out.println(Arrays.deepToString(m) + Arrays.toString(jag[1]) + Arrays.deepToString(jag) + m[1].length + m.getClass().getSimpleName() + m.getClass().getName());
        int[] a = {5, 3, 1}; int[] b = a.clone(); Arrays.sort(a); System.out.println(Arrays.toString(a) + Arrays.toString(b) + Arrays.binarySearch(a, 3) + Arrays.equals(a, b) + Arrays.hashCode(a) + Arrays.stream(a).sum());
        Integer[] boxed = {3, 1, 2}; Arrays.sort(boxed, Collections.reverseOrder()); System.out.println(Arrays.asList(boxed) + Arrays.toString(Arrays.copyOfRange(b, 1, 5)));
        char[] c = "dcba".toCharArray(); Arrays.sort(c); System.out.println(c); System.out.println(new String(c) + c.length); Arrays.fill(c, 'z'); System.out.println(String.valueOf(c)); long[] l = new long[2]; l[0]++; System.out.println(l[0] + l[1]); int i = 0; int[] q = new int[3]; q[i++] = i; q[i] = i++ + i; System.out.println(Arrays.toString(q) + i);
        Object o = new int[0]; System.out.println(o instanceof int[]); try { Object[] s = new String[1]; s[0] = 1; } catch (ArrayStoreException e) { System.out.println(e); } try { int[] neg = new int[-1]; } catch (NegativeArraySizeException e) { System.out.println(e); }
    }
}
// === conditional and short circuit
public class Main {
    static boolean t(String s) { System.out.print(s); return true; } static boolean f(String s) { System.out.print(s); return false; }
    public static void main(String[] args) {
        System.out.println(f("a") && t("b") || t("c")); System.out.println(f("a") & t("b") | t("c")); int x = 5; System.out.println(x > 3 ? x < 5 ? "a" : "b" : "c"); Object o = true ? 1 : 2.0; System.out.println(o); Integer n = null; try { int z = false ? 1 : n; } catch (NullPointerException e) { System.out.println("npe"); } boolean b = false; if (b = true) System.out.println("assigned"); System.out.println((x & 1) == 1 ? "odd" : "even");
    }
}
// === static and instance polymorphism
public class Main {
    static class A { String n = "A"; static String s() { return "sA"; } String i() { return "iA" + n; } String call(A a) { return "A(A)"; } }
    static class B extends A { String n = "B"; static String s() { return "sB"; } @Override String i() { return "iB" + n + super.n + super.i(); } String call(B b) { return "B(B)"; } }
    public static void main(String[] args) { A a = new B(); System.out.println(a.n + ((B) a).n + a.i() + A.s() + B.s() + a.call(new B()) + ((B) a).call((B) a)); try { B b = (B) new A(); } catch (ClassCastException e) { System.out.println(e.getMessage().startsWith("class Main$A cannot be cast to class Main$B")); } }
}
// === iterators, iterables and spliterators
import java.util.*;
import java.util.stream.*;
class Range implements Iterable<Integer> {
    private final int lo, hi; Range(int lo, int hi) { this.lo = lo; this.hi = hi; }
    public Iterator<Integer> iterator() { return new Iterator<Integer>() { int at = lo; @Override public boolean hasNext() { return at < hi; } @Override public Integer next() { if (!hasNext()) throw new NoSuchElementException(); return at++; } }; }
    public static void main(String[] args) { int s = 0; for (int i : new Range(1, 5)) s += i; System.out.println(s + " " + StreamSupport.stream(new Range(0, 3).spliterator(), false).map(String::valueOf).collect(Collectors.joining(","))); new Range(8, 10).forEach(System.out::println); try { new Range(1, 1).iterator().next(); } catch (NoSuchElementException e) { System.out.println("none"); } }
}
// === virtual threads and structured waiting
import java.util.*;
import java.util.concurrent.*;
public class Main {
    public static void main(String[] args) throws Exception {
        try (var pool = Executors.newVirtualThreadPerTaskExecutor()) { List<Future<Integer>> f = new ArrayList<>(); for (int i = 0; i < 50; i++) { int n = i; f.add(pool.submit(() -> { Thread.sleep(5); return n * n; })); } int s = 0; for (var x : f) s += x.get(); System.out.println(s); }
        Thread t = Thread.ofVirtual().name("v1").start(() -> System.out.println(Thread.currentThread().getName() + Thread.currentThread().isVirtual())); t.join(); Thread p = Thread.ofPlatform().name("p1").daemon().unstarted(() -> System.out.println("platform")); p.start(); p.join();
    }
}
// === sequenced collections
import java.util.*;
public class Main { public static void main(String[] args) { var l = new ArrayList<>(List.of(1, 2, 3)); l.addFirst(0); l.addLast(4); System.out.println(l.reversed() + " " + l.getFirst() + l.removeLast()); var m = new LinkedHashMap<String, Integer>(); m.put("a", 1); m.put("b", 2); m.putFirst("z", 0); System.out.println(m + " " + m.reversed() + m.firstEntry() + m.pollLastEntry()); var s = new LinkedHashSet<>(List.of(3, 1, 2)); System.out.println(s.reversed() + " " + s.getLast()); } }
// === new string and math methods of 21
public class Main { public static void main(String[] args) { System.out.println("a,b".splitWithDelimiters(",", 0).length + " " + new StringBuilder().repeat("xy", 3) + " " + Math.clamp(15L, 0, 10) + " " + Character.isEmoji(0x1F600) + " " + "hello".indexOf('l', 0, 3)); } }

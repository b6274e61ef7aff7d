Programs that fail, end early or do not compile.

// === uncaught exception
public class Main {
    static int divide(int a, int b) {
        return a / b;
    }
    public static void main(String[] args) {
        System.out.println(divide(4, 2));
        System.out.println(divide(1, 0));
    }
}
// === uncaught chained exceptions
public class Main {
    static class AppException extends RuntimeException { AppException(String m, Throwable c) { super(m, c); } }
    static void load() { try { parse("x"); } catch (NumberFormatException e) { throw new AppException("cannot load", e); } }
    static int parse(String s) { return Integer.parseInt(s); }
    public static void main(String[] args) {
        try { load(); } catch (AppException e) { throw new IllegalStateException(e); }
    }
}
// === printed chained and suppressed exceptions
import java.io.*;
public class Main {
    static class R implements AutoCloseable { public void close() throws IOException { throw new IOException("on close"); } }
    static void deep(int n) throws Exception { if (n == 0) { try (R r = new R()) { throw new Exception("body", new Error("root")); } } deep(n - 1); }
    public static void main(String[] args) {
        try { deep(3); } catch (Exception e) {
            e.printStackTrace();
            System.out.println(e.getSuppressed().length + " " + e.getCause());
            StringWriter w = new StringWriter(); e.printStackTrace(new PrintWriter(w)); System.out.print(w);
            e.printStackTrace(System.out);
        }
    }
}
// === circular causes
public class Main { public static void main(String[] args) { Exception a = new Exception("a"), b = new Exception("b", a); a.initCause(b); a.printStackTrace(); } }
// === null pointer messages
public class Main { String s; Main next; int[] a; static String f() { return null; }
    static void t(Runnable r) { try { r.run(); } catch (NullPointerException e) { System.out.println(e.getMessage()); } }
    public static void main(String[] args) { Main m = new Main(); String name = null; Integer box = null; int[][] g = new int[2][]; t(() -> m.s.length()); t(() -> m.next.next.s = "x"); t(() -> System.out.println(m.a[0])); t(() -> f().trim()); t(() -> { int[] q = g[1]; q[0] = 1; }); try { name.length(); } catch (NullPointerException e) { System.out.println(e.getMessage()); } try { int x = box; } catch (NullPointerException e) { System.out.println(e.getMessage()); } try { throw null; } catch (NullPointerException e) { System.out.println(e.getMessage()); } try { synchronized (name) { } } catch (NullPointerException e) { System.out.println(e.getMessage()); } } }
// === array index message
public class Main { public static void main(String[] args) { int[] a = new int[3]; a[3] = 1; } }
// === class cast message
public class Main { static class Dog { } public static void main(String[] args) { Object o = "text"; try { Integer i = (Integer) o; } catch (ClassCastException e) { System.out.println(e.getMessage()); } System.out.println("next"); Object d = new Dog(); Integer s = (Integer) o; } }
// === class cast within the jdk
public class Main { public static void main(String[] args) { Object o = 1; System.out.println("x"); String s = (String) o; } }
// === custom checked exception
class InsufficientFundsException extends Exception { private final double amount; InsufficientFundsException(double amount) { super("Insufficient funds: need " + amount + " more"); this.amount = amount; } double getAmount() { return amount; } }
class Account { private double balance; void deposit(double a) { if (a <= 0) throw new IllegalArgumentException("Deposit must be positive"); balance += a; } void withdraw(double a) throws InsufficientFundsException { if (a > balance) throw new InsufficientFundsException(a - balance); balance -= a; } double getBalance() { return balance; } }
public class Main {
    public static void main(String[] args) throws InsufficientFundsException {
        Account a = new Account(); a.deposit(100);
        try { a.withdraw(150); } catch (InsufficientFundsException e) { System.out.println("Caught: " + e.getMessage() + " " + e.getAmount()); }
        try { a.deposit(-1); } catch (IllegalArgumentException e) { System.err.println(e); }
        a.withdraw(500);
    }
}
// === exit with a code
public class Main { public static void main(String[] args) { System.out.println("working"); System.err.println("fatal"); System.exit(42); System.out.println("never"); } }
// === exit with zero
public class Main { public static void main(String[] args) { try { System.out.println("a"); System.exit(0); } catch (Throwable t) { System.out.println("caught " + t); } finally { System.out.println("finally"); } } }
// === exit in a thread
public class Main { public static void main(String[] args) throws Exception { Thread t = new Thread(() -> { System.out.println("leaving"); System.exit(7); }); t.start(); t.join(); Thread.sleep(5000); System.out.println("never"); } }
// === exit with a hook
public class Main { public static void main(String[] args) { Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("cleaning up"))); System.out.println("main done"); Runtime.getRuntime().exit(5); } }
// === halt skips hooks
public class Main { public static void main(String[] args) { Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("never"))); Runtime.getRuntime().halt(3); } }
// === exception in a thread
public class Main { public static void main(String[] args) throws Exception { Thread t = new Thread(() -> { Object o = null; o.hashCode(); }, "worker-1"); t.start(); t.join(); System.out.println("main goes on"); } }
// === uncaught handlers
public class Main { public static void main(String[] args) throws Exception { Thread.setDefaultUncaughtExceptionHandler((t, e) -> System.out.println("default " + t.getName() + " " + e.getMessage())); Thread a = new Thread(() -> { throw new IllegalStateException("one"); }); a.start(); a.join(); Thread b = new Thread(() -> { throw new IllegalStateException("two"); }); b.setUncaughtExceptionHandler((t, e) -> System.out.println("own " + e.getMessage())); b.start(); b.join(); System.out.println("done"); } }
// === handler is the jvms again
public class Main { public static void main(String[] args) throws Exception { System.out.println(Thread.getDefaultUncaughtExceptionHandler()); Thread a = new Thread(() -> { throw new IllegalStateException("plain"); }); a.start(); a.join(); } }
// === stack overflow is caught
public class Main { static int depth; static void down() { depth++; down(); } public static void main(String[] args) { try { down(); } catch (StackOverflowError e) { System.out.println(depth > 1000 ? "deep " + e.getMessage() : "shallow"); } } }
// === assertion statements
public class Main { public static void main(String[] args) { assert args.length > 5 : "not checked"; System.out.println("assertions are off"); boolean on = false; assert on = true; System.out.println(on); } }
// === static initialiser fails
public class Main { static class Config { static final int V = Integer.parseInt("bad"); } public static void main(String[] args) { try { System.out.println(Config.V); } catch (ExceptionInInitializerError e) { System.out.println(e.getCause()); } System.out.println(Config.V); } }
// === main class fails to initialise
public class Main { static int[] data = new int[2]; static { data[2] = 1; } public static void main(String[] args) { System.out.println("never"); } }
// === exception with several lines
public class Main { public static void main(String[] args) { throw new IllegalArgumentException("first\nsecond\tline"); } }
// === exception without message in own class
public class Main { static class Quiet extends RuntimeException { @Override public String toString() { return "quiet!"; } } public static void main(String[] args) { System.out.println(new Quiet().getMessage()); throw new Quiet(); } }
// === exception without stack
public class Main { static class Fast extends RuntimeException { Fast() { super("fast", null, false, false); } } public static void main(String[] args) { throw new Fast(); } }
// === rethrow and stack changes
public class Main { static void a() throws Exception { try { b(); } catch (Exception e) { e.addSuppressed(new Exception("side")); throw e; } } static void b() throws Exception { throw new Exception("from b"); } public static void main(String[] args) throws Exception { try { a(); } catch (Exception e) { Exception n = new Exception("outer", e); n.setStackTrace(new StackTraceElement[] {new StackTraceElement("X", "y", "Z.java", 5)}); n.printStackTrace(); throw n; } } }
// === exceptions from lambdas and streams
import java.util.*;
public class Main { public static void main(String[] args) { List<String> in = List.of("1", "x"); try { in.stream().map(Integer::parseInt).forEach(System.out::println); } catch (NumberFormatException e) { System.out.println(e.getMessage()); StackTraceElement[] t = e.getStackTrace(); System.out.println(t[t.length - 1]); } in.forEach(s -> { if (s.equals("x")) throw new UnsupportedOperationException("lambda " + s); }); } }
// === exception from a constructor chain
public class Main { static class A { A(int n) { if (n < 0) throw new IllegalArgumentException("n < 0"); } } static class B extends A { B() { super(-1); } } static class Holder { final A a = new B(); } public static void main(String[] args) {
    new Holder();
} }
// === future fails
import java.util.concurrent.*;
public class Main { static int work() { throw new IllegalStateException("in task"); } public static void main(String[] args) throws Exception { ExecutorService e = Executors.newSingleThreadExecutor(); Future<Integer> f = e.submit(() -> work()); try { f.get(); } catch (ExecutionException x) { System.out.println(x.getMessage() + " | " + x.getCause()); } e.shutdown(); CompletableFuture.supplyAsync(Main::work).exceptionally(t -> { System.out.println(t); return -1; }).join(); } }
// === reading at the end of input
import java.io.*;
import java.util.*;
public class Main { public static void main(String[] args) throws IOException { Scanner s = new Scanner(System.in); System.out.print("Enter: "); System.out.println(s.hasNext()); BufferedReader r = new BufferedReader(new InputStreamReader(System.in)); System.out.println(r.readLine() + System.in.read() + System.console()); s.nextLine(); } }
// === reading numbers at the end of input
import java.util.Scanner;
public class Main { public static void main(String[] args) { Scanner sc = new Scanner(System.in); System.out.print("How many? "); int n = sc.nextInt(); System.out.println(n); } }
// === reading after close
import java.util.Scanner;
public class Main { public static void main(String[] args) throws Exception { new Scanner(System.in).close(); try { System.in.read(); } catch (java.io.IOException e) { System.out.println(e); } } }
// === out of memory is caught
public class Main { public static void main(String[] args) { try { int[] a = new int[Integer.MAX_VALUE]; System.out.println(a.length); } catch (OutOfMemoryError e) { System.out.println(e.getMessage()); } } }
// === compile error, missing semicolon
public class Main {
    public static void main(String[] args) {
        int x = 5
        System.out.println(x);
    }
}
// === compile error, several
import java.util.*;
public class Main {
    int count = "zero";
    static final List<String> names = new ArrayList<>();
    void run() throws MissingException { undefined(); names.add(3); }
    public static void main(String[] args) {
        String s = null
            + count;
        final int k = 1; k = 2;
        Strin t = "x";
        return 1;
    }
}
// === compile error, unclosed brace
public class Main {
    public static void main(String[] args) {
        if (args.length == 0) {
            System.out.println("a");
    }
}
// === compile error, missing return and unreachable
public class Main {
    static int f(int x) { if (x > 0) return 1; }
    static int g() { return 1; System.out.println(); }
    static void h() { while (true) { } }
    static int i() { int q; return q; }
    public static void main(String[] args) { }
}
// === compile error, unchecked exceptions
import java.io.*;
public class Main { public static void main(String[] args) { new FileReader("x"); try { System.out.println(); } catch (IOException e) { } Thread.sleep(5); } }
// === compile error, sealed and switch
sealed interface S permits A, B { }
record A() implements S { }
record B() implements S { }
final class C implements S { }
public class Main { static int f(S s) { return switch (s) { case A a -> 1; }; } public static void main(String[] args) { Object o = 1; switch (o) { case String t -> { } } } }
// === compile error, abstract and override
interface Shape { double area(); }
class Sq implements Shape { double area() { return 1; } }
abstract class T { abstract void f(); }
class U extends T { }
class V { final void x() { } private V(int a) { } }
class W extends V { void x() { } @Override void nothing() { } }
public class Main { public static void main(String[] args) { new T(); Sq.area(); this.toString(); } }
// === compile error, generics
import java.util.*;
public class Main { static <T extends Number> T f(T t) { return t; } public static void main(String[] args) { List<Object> l = new ArrayList<String>(); f("x"); List<int> i; Map<String> m; Integer n = 5L; var v; var w = null; var z = () -> 1; } }
// === compile error, missing package
import org.apache.commons.lang3.StringUtils;
import java.util.Lisst;
public class Main { public static void main(String[] args) { System.out.println(StringUtils.reverse("x")); } }
// === compile error, duplicate and wrong names
public class Main { int a; String a; void f() { } int f() { return 1; } public static void main(String[] args) { int x = 1; int x = 2; for (int i = 0; i < 3; i++) int y = i; char c = 'ab'; String s = "unclosed; } }
// === compile error, lossy and incompatible
public class Main { public static void main(String[] args) { int i = 3.5; byte b = 300; float f = 1.0; long l = 99999999999; boolean t = 1; String s = 'c'; if (i) { } if (i = 4) { } i.length(); "a" - "b"; char c = i; int[] a = {1, "2"}; Object o = args; o.length; } }
// === warnings are no errors
import java.util.*;
public class Main { @SuppressWarnings({"rawtypes", "unchecked"}) static List raw() { List l = new ArrayList(); l.add(1); l.add("x"); return l; } public static void main(String[] args) { List q = raw(); q.add(2.5); System.out.println(q); new Date(100, 1, 1).getYear(); Thread.currentThread().getId(); } }

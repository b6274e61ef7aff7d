Programs as courses, interviews and language models write them.

// === hello world
public class HelloWorld {
    public static void main(String[] args) {
        System.out.println("Hello, World!");
    }
}
// === fizz buzz
class FizzBuzz { public static void main(String[] args) { for (int i = 1; i <= 15; i++) System.out.print((i % 15 == 0 ? "FizzBuzz" : i % 5 == 0 ? "Buzz" : i % 3 == 0 ? "Fizz" : i) + (i < 15 ? ", " : "\n")); } }
// === bank account
import java.util.ArrayList;
import java.util.List;

abstract class Account {
    private static int nextId = 1000;
    protected final int id; protected double balance; private final List<String> history = new ArrayList<>();
    public Account(double initial) { this.id = ++nextId; this.balance = initial; log("Opened with $" + initial); }
    protected void log(String s) { history.add(s); }
    public void deposit(double amount) { if (amount <= 0) throw new IllegalArgumentException("Invalid amount"); balance += amount; log(String.format("Deposited $%.2f", amount)); }
    public abstract void withdraw(double amount);
    public void printHistory() { System.out.println("Account " + id); history.forEach(h -> System.out.println("  - " + h)); }
}
class Savings extends Account {
    private final double rate;
    public Savings(double initial, double rate) { super(initial); this.rate = rate; }
    @Override public void withdraw(double amount) { if (amount > balance) throw new IllegalStateException("Insufficient funds"); balance -= amount; log("Withdrew $" + amount); }
    public void addInterest() { deposit(balance * rate); }
}
class Checking extends Account {
    public Checking(double initial) { super(initial); }
    @Override public void withdraw(double amount) { balance -= amount; log("Withdrew $" + amount + (balance < 0 ? " (overdraft)" : "")); }
}
public class BankDemo {
    public static void main(String[] args) {
        Savings s = new Savings(100, 0.05); s.addInterest();
        try { s.withdraw(1000); } catch (IllegalStateException e) { System.out.println("Error: " + e.getMessage()); }
        Checking c = new Checking(50); c.withdraw(75.5);
        for (Account a : List.of(s, c)) { a.printHistory(); System.out.printf("  Balance: %.2f%n", a.balance); }
    }
}
// === tic tac toe
public class TicTacToe {
    private final char[][] board = new char[3][3];
    private char player = 'X';
    public TicTacToe() { for (char[] row : board) java.util.Arrays.fill(row, '-'); }
    boolean move(int r, int c) { if (r < 0 || r > 2 || c < 0 || c > 2 || board[r][c] != '-') return false; board[r][c] = player; if (!wins()) player = player == 'X' ? 'O' : 'X'; return true; }
    boolean wins() { for (int i = 0; i < 3; i++) if (line(board[i][0], board[i][1], board[i][2]) || line(board[0][i], board[1][i], board[2][i])) return true; return line(board[0][0], board[1][1], board[2][2]) || line(board[0][2], board[1][1], board[2][0]); }
    private boolean line(char a, char b, char c) { return a != '-' && a == b && b == c; }
    void print() { for (char[] row : board) System.out.println(new String(row).replace("", " ").trim()); }
    public static void main(String[] args) { TicTacToe t = new TicTacToe(); int[][] moves = {{0, 0}, {1, 1}, {0, 0}, {0, 1}, {2, 2}, {0, 2}, {2, 0}}; for (int[] m : moves) if (!t.move(m[0], m[1])) System.out.println("Invalid move"); else if (t.wins()) break; t.print(); System.out.println("Winner: " + (t.wins() ? t.player : "none")); }
}
// === matrix multiplication
public class Matrix { static int[][] mul(int[][] a, int[][] b) { int n = a.length, m = b[0].length; int[][] c = new int[n][m]; for (int i = 0; i < n; i++) for (int j = 0; j < m; j++) for (int k = 0; k < b.length; k++) c[i][j] += a[i][k] * b[k][j]; return c; } public static void main(String[] args) { for (int[] r : mul(new int[][] {{1, 2}, {3, 4}}, new int[][] {{5, 6}, {7, 8}})) { for (int v : r) System.out.printf("%4d", v); System.out.println(); } } }
// === linked list
class Node<T> { T data; Node<T> next; Node(T d) { data = d; } }
class LinkedListDemo<T> { private Node<T> head; private int size; void add(T d) { Node<T> n = new Node<>(d); if (head == null) head = n; else { Node<T> c = head; while (c.next != null) c = c.next; c.next = n; } size++; } void reverse() { Node<T> p = null, c = head; while (c != null) { Node<T> n = c.next; c.next = p; p = c; c = n; } head = p; } @Override public String toString() { StringBuilder s = new StringBuilder("["); for (Node<T> c = head; c != null; c = c.next) s.append(c.data).append(c.next == null ? "" : " -> "); return s.append("]").toString(); }
    public static void main(String[] args) { LinkedListDemo<Integer> l = new LinkedListDemo<>(); for (int i = 1; i <= 4; i++) l.add(i); System.out.println(l); l.reverse(); System.out.println(l + " " + l.size); } }
// === stack and queue of earlier names
class Node { int v; Node next; Node(int v, Node n) { this.v = v; next = n; } }
class Stack { Node top; void push(int v) { top = new Node(v, top); } int pop() { if (top == null) throw new RuntimeException("Stack underflow"); int v = top.v; top = top.next; return v; } }
class Queue { private final Stack in = new Stack(), out = new Stack(); void add(int v) { in.push(v); } int poll() { if (out.top == null) while (in.top != null) out.push(in.pop()); return out.pop(); } }
public class Main { public static void main(String[] args) { Queue q = new Queue(); q.add(1); q.add(2); System.out.println(q.poll() + q.poll()); q.poll(); } }
// === the jdks stack after an own one
import java.util.*;
public class Main { static boolean balanced(String s) { Stack<Character> st = new Stack<>(); for (char c : s.toCharArray()) { if ("([{".indexOf(c) >= 0) st.push(c); else if (st.isEmpty() || "([{".indexOf(st.pop()) != ")]}".indexOf(c)) return false; } return st.isEmpty(); } public static void main(String[] args) { for (String s : new String[] {"()[]", "(]", "((", ""}) System.out.println(s + " " + balanced(s)); Queue<Integer> q = new LinkedList<>(); q.add(3); System.out.println(q); } }
// === binary search tree
public class BST { private class Node { int key; Node left, right; Node(int k) { key = k; } } private Node root; void insert(int k) { root = insert(root, k); } private Node insert(Node n, int k) { if (n == null) return new Node(k); if (k < n.key) n.left = insert(n.left, k); else if (k > n.key) n.right = insert(n.right, k); return n; } private void inorder(Node n, StringBuilder s) { if (n != null) { inorder(n.left, s); s.append(n.key).append(' '); inorder(n.right, s); } } int height(Node n) { return n == null ? 0 : 1 + Math.max(height(n.left), height(n.right)); } public static void main(String[] args) { BST t = new BST(); for (int k : new int[] {50, 30, 70, 20, 40, 60, 80, 30}) t.insert(k); StringBuilder s = new StringBuilder(); t.inorder(t.root, s); System.out.println(s.toString().trim() + " h=" + t.height(t.root)); } }
// === breadth and depth first search
import java.util.*;
public class Graph { private final Map<Integer, List<Integer>> adj = new TreeMap<>(); void edge(int a, int b) { adj.computeIfAbsent(a, k -> new ArrayList<>()).add(b); adj.computeIfAbsent(b, k -> new ArrayList<>()).add(a); } List<Integer> bfs(int s) { List<Integer> out = new ArrayList<>(); Set<Integer> seen = new HashSet<>(Set.of(s)); Queue<Integer> q = new LinkedList<>(List.of(s)); while (!q.isEmpty()) { int v = q.poll(); out.add(v); for (int w : adj.get(v)) if (seen.add(w)) q.add(w); } return out; } void dfs(int v, Set<Integer> seen) { if (!seen.add(v)) return; for (int w : adj.get(v)) dfs(w, seen); } public static void main(String[] args) { Graph g = new Graph(); int[][] e = {{1, 2}, {1, 3}, {2, 4}, {3, 4}, {4, 5}}; for (int[] x : e) g.edge(x[0], x[1]); Set<Integer> d = new LinkedHashSet<>(); g.dfs(1, d); System.out.println(g.bfs(1) + " " + d); } }
// === dijkstra
import java.util.*;
public class Dijkstra { record Edge(int to, int w) { } public static void main(String[] args) { int n = 5; List<List<Edge>> g = new ArrayList<>(); for (int i = 0; i < n; i++) g.add(new ArrayList<>()); int[][] es = {{0, 1, 4}, {0, 2, 1}, {2, 1, 2}, {1, 3, 5}}; for (int[] e : es) g.get(e[0]).add(new Edge(e[1], e[2])); int[] d = new int[n]; Arrays.fill(d, Integer.MAX_VALUE); d[0] = 0; PriorityQueue<int[]> q = new PriorityQueue<>(Comparator.comparingInt(a -> a[1])); q.add(new int[] {0, 0}); while (!q.isEmpty()) { int[] c = q.poll(); if (c[1] > d[c[0]]) continue; for (Edge e : g.get(c[0])) if (c[1] + e.w() < d[e.to()]) { d[e.to()] = c[1] + e.w(); q.add(new int[] {e.to(), d[e.to()]}); } } for (int i = 0; i < n; i++) System.out.println(i + ": " + (d[i] == Integer.MAX_VALUE ? "INF" : d[i])); } }
// === lru cache
import java.util.*;
class LRUCache<K, V> extends LinkedHashMap<K, V> { private final int capacity; LRUCache(int c) { super(c, 0.75f, true); capacity = c; } @Override protected boolean removeEldestEntry(Map.Entry<K, V> e) { return size() > capacity; } }
public class Main { public static void main(String[] args) { LRUCache<Integer, String> c = new LRUCache<>(2); c.put(1, "a"); c.put(2, "b"); c.get(1); c.put(3, "c"); System.out.println(c + " " + c.containsKey(2)); } }
// === two sum without imports
class Solution { public int[] twoSum(int[] nums, int target) { Map<Integer, Integer> seen = new HashMap<>(); for (int i = 0; i < nums.length; i++) { Integer j = seen.get(target - nums[i]); if (j != null) return new int[] {j, i}; seen.put(nums[i], i); } return new int[0]; } }
public class Main { public static void main(String[] args) { System.out.println(Arrays.toString(new Solution().twoSum(new int[] {2, 7, 11, 15}, 9))); } }
// === longest substring
import java.util.HashMap;
class Solution { int lengthOfLongestSubstring(String s) { HashMap<Character, Integer> m = new HashMap<>(); int best = 0, start = 0; for (int i = 0; i < s.length(); i++) { Integer p = m.put(s.charAt(i), i); if (p != null && p >= start) start = p + 1; best = Math.max(best, i - start + 1); } return best; } public static void main(String[] args) { for (String s : new String[] {"abcabcbb", "bbbbb", "pwwkew", ""}) System.out.println(new Solution().lengthOfLongestSubstring(s)); } }
// === n queens
import java.util.*;
public class NQueens { static int count; static void solve(int r, int n, int cols, int d1, int d2) { if (r == n) { count++; return; } for (int c = 0; c < n; c++) { int a = 1 << c, b = 1 << (r + c), e = 1 << (r - c + n); if ((cols & a) != 0 || (d1 & b) != 0 || (d2 & e) != 0) continue; solve(r + 1, n, cols | a, d1 | b, d2 | e); } } public static void main(String[] args) { for (int n = 1; n <= 7; n++) { count = 0; solve(0, n, 0, 0, 0); System.out.print(count + " "); } System.out.println(); } }
// === sorting algorithms
import java.util.*;
import java.util.function.Consumer;
public class Sorts { static void bubble(int[] a) { for (int i = 0; i < a.length; i++) for (int j = 0; j + 1 < a.length - i; j++) if (a[j] > a[j + 1]) swap(a, j, j + 1); } static void quick(int[] a) { quick(a, 0, a.length - 1); } private static void quick(int[] a, int l, int h) { if (l >= h) return; int p = a[h], i = l; for (int j = l; j < h; j++) if (a[j] < p) swap(a, i++, j); swap(a, i, h); quick(a, l, i - 1); quick(a, i + 1, h); } static void merge(int[] a) { if (a.length < 2) return; int[] l = Arrays.copyOfRange(a, 0, a.length / 2), r = Arrays.copyOfRange(a, a.length / 2, a.length); merge(l); merge(r); int i = 0, j = 0, k = 0; while (k < a.length) a[k++] = j >= r.length || i < l.length && l[i] <= r[j] ? l[i++] : r[j++]; } private static void swap(int[] a, int i, int j) { int t = a[i]; a[i] = a[j]; a[j] = t; } public static void main(String[] args) { Map<String, Consumer<int[]>> m = new LinkedHashMap<>(); m.put("bubble", Sorts::bubble); m.put("quick", Sorts::quick); m.put("merge", Sorts::merge); m.forEach((n, s) -> { int[] a = {5, -2, 9, 0, 5}; s.accept(a); System.out.println(n + " " + Arrays.toString(a)); }); } }
// === primes and fibonacci
import java.util.stream.*;
public class Numbers { static boolean isPrime(int n) { return n > 1 && IntStream.rangeClosed(2, (int) Math.sqrt(n)).noneMatch(i -> n % i == 0); } static long fib(int n) { long a = 0, b = 1; for (int i = 0; i < n; i++) { long t = a + b; a = b; b = t; } return a; } static int gcd(int a, int b) { return b == 0 ? a : gcd(b, a % b); } public static void main(String[] args) { System.out.println(IntStream.range(0, 50).filter(Numbers::isPrime).boxed().collect(Collectors.toList())); System.out.println(fib(90) + " " + gcd(84, 36)); boolean[] sieve = new boolean[30]; for (int i = 2; i < 30; i++) if (!sieve[i]) { System.out.print(i + " "); for (int j = i * i; j < 30; j += i) sieve[j] = true; } System.out.println(); } }
// === library system
import java.util.*;
import java.util.stream.Collectors;
class Book { private final String title, author; private boolean available = true; Book(String t, String a) { title = t; author = a; } String getTitle() { return title; } String getAuthor() { return author; } boolean isAvailable() { return available; } void setAvailable(boolean a) { available = a; } @Override public boolean equals(Object o) { if (this == o) return true; if (o == null || getClass() != o.getClass()) return false; return title.equals(((Book) o).title); } @Override public int hashCode() { return Objects.hash(title); } @Override public String toString() { return "Book{title='" + title + "', author='" + author + "', available=" + available + '}'; } }
class Library { private final List<Book> books = new ArrayList<>(); private final Map<String, List<Book>> loans = new TreeMap<>(); void add(Book b) { books.add(b); } boolean lend(String who, String t) { return books.stream().filter(b -> b.getTitle().equalsIgnoreCase(t) && b.isAvailable()).findFirst().map(b -> { b.setAvailable(false); loans.computeIfAbsent(who, k -> new ArrayList<>()).add(b); return true; }).orElse(false); } void report() { books.forEach(System.out::println); System.out.println(loans.entrySet().stream().map(e -> e.getKey() + ":" + e.getValue().size()).collect(Collectors.joining("; "))); } }
public class LibraryApp { public static void main(String[] args) { Library l = new Library(); l.add(new Book("Dune", "Herbert")); l.add(new Book("Emma", "Austen")); System.out.println(l.lend("ann", "dune") + " " + l.lend("bob", "Dune") + " " + l.lend("bob", "Emma")); l.report(); System.out.println(new Book("X", "a").equals(new Book("X", "b"))); } }
// === menu with scanner
import java.util.Scanner;
public class Menu { public static void main(String[] args) { Scanner scanner = new Scanner(System.in); boolean running = true; while (running) { System.out.println("1. Add\n2. Quit"); System.out.print("Choice: "); if (!scanner.hasNextInt()) { System.out.println("\nNo input, bye"); break; } switch (scanner.nextInt()) { case 2 -> running = false; default -> System.out.println("?"); } } scanner.close(); } }
// === observer and strategy patterns
import java.util.*;
import java.util.function.*;
public class Patterns { interface Listener { void on(String e); } static class Bus { private final Map<String, List<Listener>> m = new LinkedHashMap<>(); void sub(String t, Listener l) { m.computeIfAbsent(t, k -> new ArrayList<>()).add(l); } void emit(String t, String e) { m.getOrDefault(t, List.of()).forEach(l -> l.on(e)); } } static class Pizza { private final String size; private final Set<String> tops; private Pizza(Builder b) { size = b.size; tops = b.tops; } static Builder builder() { return new Builder(); } static class Builder { private String size = "M"; private final Set<String> tops = new TreeSet<>(); Builder size(String s) { size = s; return this; } Builder top(String t) { tops.add(t); return this; } Pizza build() { return new Pizza(this); } } public String toString() { return size + tops; } } enum Discount implements DoubleUnaryOperator { NONE { public double applyAsDouble(double p) { return p; } }, HALF { public double applyAsDouble(double p) { return p / 2; } } } interface Visitor<R> { R num(int n); R add(Ex a, Ex b); } interface Ex { <R> R accept(Visitor<R> v); static Ex num(int n) { return new Ex() { public <R> R accept(Visitor<R> v) { return v.num(n); } }; } static Ex add(Ex a, Ex b) { return new Ex() { public <R> R accept(Visitor<R> v) { return v.add(a, b); } }; } } public static void main(String[] args) { Bus b = new Bus(); b.sub("x", e -> System.out.println("1 " + e)); b.sub("x", new Listener() { int n; public void on(String e) { System.out.println(++n + "nd " + e); } }); b.emit("x", "go"); b.emit("y", "no"); System.out.println(Pizza.builder().size("L").top("ham").top("egg").build()); for (Discount d : Discount.values()) System.out.println(d + " " + d.applyAsDouble(10)); System.out.println(Ex.add(Ex.num(2), Ex.num(3)).accept(new Visitor<Integer>() { public Integer num(int n) { return n; } public Integer add(Ex a, Ex c) { return a.accept(this) + c.accept(this); } })); } }
// === word count of a text
import java.util.*;
import java.util.stream.*;
public class WordCount { public static void main(String[] args) { String text = "the quick brown fox jumps over the lazy dog the end"; Map<String, Long> c = Arrays.stream(text.split("\\s+")).collect(Collectors.groupingBy(w -> w, Collectors.counting())); c.entrySet().stream().sorted(Map.Entry.<String, Long>comparingByValue().reversed().thenComparing(Map.Entry.comparingByKey())).limit(3).forEach(e -> System.out.printf("%-6s %d%n", e.getKey(), e.getValue())); System.out.println(new StringBuilder(text).reverse()); System.out.println("racecar".contentEquals(new StringBuilder("racecar").reverse())); } }
// === calculator with a parser
import java.util.*;
public class Calc { private final String s; private int p; Calc(String s) { this.s = s.replace(" ", ""); } double parse() { double v = expr(); if (p < s.length()) throw new IllegalArgumentException("Unexpected '" + s.charAt(p) + "' at " + p); return v; } double expr() { double v = term(); while (p < s.length() && "+-".indexOf(s.charAt(p)) >= 0) v = s.charAt(p++) == '+' ? v + term() : v - term(); return v; } double term() { double v = factor(); while (p < s.length() && "*/".indexOf(s.charAt(p)) >= 0) v = s.charAt(p++) == '*' ? v * factor() : v / factor(); return v; } double factor() { if (s.charAt(p) == '-') { p++; return -factor(); } if (s.charAt(p) == '(') { p++; double v = expr(); p++; return v; } int b = p; while (p < s.length() && (Character.isDigit(s.charAt(p)) || s.charAt(p) == '.')) p++; return Double.parseDouble(s.substring(b, p)); } public static void main(String[] args) { for (String e : List.of("1 + 2 * 3", "(1+2)*-3", "10/4", "2 ^ 3")) try { System.out.println(e + " = " + new Calc(e).parse()); } catch (RuntimeException x) { System.out.println(e + ": " + x.getMessage()); } } }
// === json by hand
import java.util.*;
public class Json { static String of(Object o) { if (o == null) return "null"; if (o instanceof String s) return '"' + s.replace("\\", "\\\\").replace("\"", "\\\"") + '"'; if (o instanceof Map<?, ?> m) { StringJoiner j = new StringJoiner(",", "{", "}"); m.forEach((k, v) -> j.add(of(k.toString()) + ":" + of(v))); return j.toString(); } if (o instanceof Iterable<?> i) { StringJoiner j = new StringJoiner(",", "[", "]"); i.forEach(x -> j.add(of(x))); return j.toString(); } return o.toString(); } public static void main(String[] args) { Map<String, Object> m = new LinkedHashMap<>(); m.put("name", "A \"q\""); m.put("tags", List.of(1, 2.5, true)); m.put("none", null); System.out.println(of(m)); } }
// === game of life
public class Life { public static void main(String[] args) { boolean[][] g = new boolean[5][5]; g[1][2] = g[2][2] = g[3][2] = true; for (int t = 0; t < 2; t++) { for (boolean[] r : g) { StringBuilder s = new StringBuilder(); for (boolean c : r) s.append(c ? '#' : '.'); System.out.println(s); } System.out.println("-----"); boolean[][] n = new boolean[5][5]; for (int i = 0; i < 5; i++) for (int j = 0; j < 5; j++) { int k = 0; for (int a = -1; a < 2; a++) for (int b = -1; b < 2; b++) if ((a != 0 || b != 0) && i + a >= 0 && i + a < 5 && j + b >= 0 && j + b < 5 && g[i + a][j + b]) k++; n[i][j] = k == 3 || g[i][j] && k == 2; } g = n; } } }
// === hanoi and permutations
import java.util.*;
public class Recursion { static int moves; static void hanoi(int n, char a, char b, char c) { if (n == 0) return; hanoi(n - 1, a, c, b); moves++; hanoi(n - 1, c, b, a); } static void permute(String p, String s, List<String> out) { if (s.isEmpty()) { out.add(p); return; } for (int i = 0; i < s.length(); i++) permute(p + s.charAt(i), s.substring(0, i) + s.substring(i + 1), out); } static int ack(int m, int n) { return m == 0 ? n + 1 : n == 0 ? ack(m - 1, 1) : ack(m - 1, ack(m, n - 1)); } public static void main(String[] args) { hanoi(10, 'A', 'B', 'C'); List<String> o = new ArrayList<>(); permute("", "abc", o); System.out.println(moves + " " + o + " " + ack(2, 3)); } }
// === dynamic programming
public class DP { static int lcs(String a, String b) { int[][] d = new int[a.length() + 1][b.length() + 1]; for (int i = 1; i <= a.length(); i++) for (int j = 1; j <= b.length(); j++) d[i][j] = a.charAt(i - 1) == b.charAt(j - 1) ? d[i - 1][j - 1] + 1 : Math.max(d[i - 1][j], d[i][j - 1]); return d[a.length()][b.length()]; } static int knap(int[] w, int[] v, int c) { int[] d = new int[c + 1]; for (int i = 0; i < w.length; i++) for (int j = c; j >= w[i]; j--) d[j] = Math.max(d[j], d[j - w[i]] + v[i]); return d[c]; } static int coins(int[] c, int t) { int[] d = new int[t + 1]; java.util.Arrays.fill(d, t + 1); d[0] = 0; for (int x : c) for (int i = x; i <= t; i++) d[i] = Math.min(d[i], d[i - x] + 1); return d[t] > t ? -1 : d[t]; } public static void main(String[] args) { System.out.println(lcs("AGGTAB", "GXTXAYB") + " " + knap(new int[] {1, 3, 4, 5}, new int[] {1, 4, 5, 7}, 7) + " " + coins(new int[] {2, 5}, 11) + coins(new int[] {2}, 3)); } }
// === employees sorted
import java.util.*;
import java.util.stream.*;
enum Dept { IT, HR }
record Employee(String name, Dept dept, double salary, int age) { }
interface Payable { double pay(); }
class Payroll { private final List<Employee> all; Payroll(List<Employee> all) { this.all = List.copyOf(all); } Map<Dept, DoubleSummaryStatistics> stats() { return all.stream().collect(Collectors.groupingBy(Employee::dept, () -> new EnumMap<>(Dept.class), Collectors.summarizingDouble(Employee::salary))); } Optional<Employee> oldest() { return all.stream().max(Comparator.comparingInt(Employee::age)); } }
public class EmployeeDemo { public static void main(String[] args) { Payroll p = new Payroll(List.of(new Employee("Zed", Dept.IT, 100.5, 40), new Employee("Amy", Dept.HR, 80, 50), new Employee("Bo", Dept.IT, 120, 30))); p.stats().forEach((d, s) -> System.out.println(d + " " + s.getAverage() + " " + s.getCount())); System.out.println(p.oldest().get()); } }
// === several public classes in one cell
public class Person { private String name; public Person(String n) { name = n; } public String getName() { return name; } }
class Main { public static void main(String[] args) { System.out.println(new Person("Eve").getName()); } }
// === event loop with lambdas in fields
import java.util.*;
import java.util.function.*;
public class Commands { private final Map<String, Function<String[], String>> commands = new TreeMap<>(); { commands.put("add", a -> String.valueOf(Integer.parseInt(a[1]) + Integer.parseInt(a[2]))); commands.put("echo", a -> String.join(" ", Arrays.copyOfRange(a, 1, a.length))); } String run(String line) { String[] a = line.trim().split("\\s+"); return Optional.ofNullable(commands.get(a[0])).map(f -> { try { return f.apply(a); } catch (NumberFormatException | ArrayIndexOutOfBoundsException e) { return e.getClass().getSimpleName() + ": " + e.getMessage(); } }).orElse("unknown: " + a[0]); } public static void main(String[] args) { Commands c = new Commands(); for (String l : List.of("add 2 3", "add x 1", "add 1", "echo a  b", "nope")) System.out.println(c.run(l)); } }
// === inventory with streams and exceptions
import java.util.*;
class OutOfStockException extends RuntimeException { final int left; OutOfStockException(String item, int left) { super(item + " has only " + left + " left"); this.left = left; } }
class Inventory { private final Map<String, Integer> stock = new LinkedHashMap<>(); Inventory add(String i, int n) { stock.merge(i, n, Integer::sum); return this; } void take(String i, int n) { int left = stock.getOrDefault(i, 0); if (left < n) throw new OutOfStockException(i, left); stock.computeIfPresent(i, (k, v) -> v == n ? null : v - n); } @Override public String toString() { return stock.toString(); } }
public class Shop { public static void main(String[] args) { Inventory v = new Inventory().add("pen", 3).add("ink", 1).add("pen", 2); v.take("ink", 1); System.out.println(v); try { v.take("pen", 9); } catch (OutOfStockException e) { System.out.println(e.getMessage() + e.left); } v.take("cap", 1); } }
// === generic repository with interfaces
import java.util.*;
import java.util.function.Predicate;
interface Entity<K> { K id(); }
interface Repo<K extends Comparable<K>, E extends Entity<K>> { void save(E e); Optional<E> find(K k); default List<E> where(Predicate<? super E> p) { List<E> out = new ArrayList<>(); all().forEach(e -> { if (p.test(e)) out.add(e); }); return out; } Collection<E> all(); }
class MemoryRepo<K extends Comparable<K>, E extends Entity<K>> implements Repo<K, E> { private final SortedMap<K, E> m = new TreeMap<>(); public void save(E e) { m.put(e.id(), e); } public Optional<E> find(K k) { return Optional.ofNullable(m.get(k)); } public Collection<E> all() { return m.values(); } }
record User(Integer id, String name) implements Entity<Integer> { }
public class App { public static void main(String[] args) { Repo<Integer, User> r = new MemoryRepo<>(); r.save(new User(2, "b")); r.save(new User(1, "a")); System.out.println(r.all() + " " + r.find(3) + r.where(u -> u.id() > 1)); } }
// === temperature table and grades
public class Tables { static char grade(int s) { if (s >= 90) return 'A'; else if (s >= 80) return 'B'; else return 'F'; } public static void main(String[] args) { System.out.println("Celsius\tFahrenheit"); for (double c = 0; c <= 30; c += 10) System.out.println(c + "\t" + (c * 9 / 5 + 32)); int[] scores = {95, 82, 40}; double sum = 0; for (int s : scores) { System.out.println(s + ": " + grade(s)); sum += s; } System.out.println("Average: " + sum / scores.length); for (int i = 1; i <= 3; i++) { for (int j = 3; j > i; j--) System.out.print(" "); for (int j = 1; j < 2 * i; j++) System.out.print("*"); System.out.println(); } } }
// === infinite generator that is cut
import java.util.*;
import java.util.function.*;
public class Gen { static <T> Iterator<T> generate(T seed, UnaryOperator<T> f) { return new Iterator<T>() { T next = seed; public boolean hasNext() { return true; } public T next() { T r = next; next = f.apply(r); return r; } }; } public static void main(String[] args) { Iterator<int[]> it = generate(new int[] {0, 1}, a -> new int[] {a[1], a[0] + a[1]}); for (int i = 0; i < 10; i++) System.out.print(it.next()[0] + " "); System.out.println(); long start = System.nanoTime(); System.out.println(System.nanoTime() >= start); } }

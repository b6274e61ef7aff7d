The JDK's library.

// === streams basics
import java.util.*;
import java.util.stream.*;
public class Main { static void p(Object o) { System.out.println(o); } record P(String name, String dept, int pay) { }
    public static void main(String[] args) {
        List<P> ps = List.of(new P("Ann", "dev", 10), new P("Bob", "ops", 7), new P("Cid", "dev", 12), new P("Dan", "ops", 9));
        p(ps.stream().collect(Collectors.groupingBy(P::dept, TreeMap::new, Collectors.averagingInt(P::pay))));
        p(ps.stream().collect(Collectors.partitioningBy(p -> p.pay() > 9, Collectors.mapping(P::name, Collectors.joining("/", "<", ">")))));
        p(ps.stream().sorted(Comparator.comparing(P::dept).thenComparing(P::pay, Comparator.reverseOrder())).map(P::name).toList());
        p(ps.stream().mapToInt(P::pay).summaryStatistics());
        p(ps.stream().collect(Collectors.toMap(P::dept, P::pay, Integer::sum, LinkedHashMap::new)));
        p(ps.stream().max(Comparator.comparingInt(P::pay)).map(P::name).orElse("none") + ps.stream().anyMatch(p -> p.pay() == 7) + ps.stream().map(P::pay).reduce(0, Integer::sum));
        p(ps.stream().collect(Collectors.teeing(Collectors.counting(), Collectors.summingInt(P::pay), (c, s) -> s + "/" + c)));
    }
}
// === streams, lazy and infinite
import java.util.*;
import java.util.stream.*;
public class Main { static void p(Object o) { System.out.println(o); } public static void main(String[] args) {
    p(Stream.iterate(1, x -> x * 2).limit(8).toList() + " " + Stream.iterate(1, x -> x < 50, x -> x * 3).toList());
    p(IntStream.rangeClosed(1, 5).boxed().flatMap(i -> Stream.of(i, -i)).map(String::valueOf).collect(Collectors.joining(",")));
    Stream.of("a", "bb", "ccc").peek(s -> System.out.print("<" + s + ">")).filter(s -> s.length() > 1).findFirst().ifPresent(Main::p);
    p(Stream.of(5, 3, 8, 1).takeWhile(x -> x > 2).toList() + "" + Stream.of(5, 3, 8, 1).dropWhile(x -> x > 2).toList() + Stream.of(1, 1, 2).distinct().count());
    p(Stream.of(1, 2, 3, 4).<Integer>mapMulti((x, c) -> { if (x % 2 == 0) { c.accept(x); c.accept(x * 10); } }).toList());
    p(IntStream.range(0, 20).parallel().map(x -> x * x).sum() + " " + Arrays.toString(IntStream.of(3, 1, 2).sorted().toArray()) + DoubleStream.of(1, 2).average().getAsDouble() + " " + Stream.of(List.of(1), List.of(2, 3)).flatMap(List::stream).skip(1).toList());
    p("mississippi".chars().mapToObj(c -> (char) c).collect(Collectors.groupingBy(c -> c, TreeMap::new, Collectors.counting())));
} }
// === optional
import java.util.*;
public class Main { static Optional<String> find(int id) { return id == 1 ? Optional.of("one") : Optional.empty(); }
    public static void main(String[] args) { System.out.println(find(1).map(String::toUpperCase) + " " + find(2).or(() -> Optional.of("alt")).get() + find(2).orElseGet(() -> "d") + find(1).filter(s -> s.length() > 5).isPresent() + OptionalInt.of(3) + find(1).stream().count()); find(2).ifPresentOrElse(System.out::println, () -> System.out.println("absent")); try { find(2).orElseThrow(); } catch (NoSuchElementException e) { System.out.println(e.getMessage()); } } }
// === collections
import java.util.*;
public class Main { public static void main(String[] args) {
    List<Integer> l = new ArrayList<>(List.of(4, 2, 7, 2)); l.remove(Integer.valueOf(2)); l.remove(0); Collections.sort(l); System.out.println(l + "" + Collections.max(l) + Collections.frequency(l, 2) + l.indexOf(7)); l.replaceAll(x -> x + 1); l.removeIf(x -> x > 7); System.out.println(l);
    Deque<Integer> d = new ArrayDeque<>(); d.push(1); d.offerLast(2); d.addFirst(0); System.out.println(d + " " + d.pop() + d.peekLast()); PriorityQueue<int[]> pq = new PriorityQueue<>((a, b) -> b[1] - a[1]); pq.add(new int[] {1, 5}); pq.add(new int[] {2, 9}); System.out.println(pq.poll()[0]);
    TreeMap<Integer, String> t = new TreeMap<>(Map.of(1, "a", 5, "b", 9, "c")); System.out.println(t.floorKey(6) + " " + t.headMap(5, true) + t.descendingMap() + t.ceilingEntry(6)); Map<String, Integer> m = new HashMap<>(); for (String w : "to be or not to be".split(" ")) m.merge(w, 1, Integer::sum); System.out.println(new TreeMap<>(m)); m.compute("be", (k, v) -> v == null ? 1 : v * 10); m.putIfAbsent("x", 0); System.out.println(m.get("be") + m.getOrDefault("zz", -1));
    Set<String> s = new TreeSet<>(String.CASE_INSENSITIVE_ORDER); s.addAll(List.of("b", "A", "B")); System.out.println(s); System.out.println(Collections.nCopies(3, "x") + " " + Collections.unmodifiableList(l) + List.of(1, 2).equals(Arrays.asList(1, 2))); BitSet bs = new BitSet(); bs.set(1); bs.set(5, 8); System.out.println(bs + " " + bs.cardinality()); LinkedList<Integer> ll = new LinkedList<>(List.of(1, 2, 3)); ListIterator<Integer> it = ll.listIterator(); while (it.hasNext()) if (it.next() == 2) { it.remove(); it.add(9); } System.out.println(ll); Collections.rotate(ll, 1); Collections.swap(ll, 0, 2); System.out.println(ll + "" + ll.subList(1, 3));
} }
// === collections that refuse
import java.util.*;
public class Main { static void t(Runnable r) { try { r.run(); System.out.println("fine"); } catch (RuntimeException e) { System.out.println(e.getClass().getName() + ": " + e.getMessage()); } }
    public static void main(String[] args) { t(() -> List.of(1).add(2)); t(() -> new ArrayList<>(List.of(1)).get(3)); t(() -> { List<Integer> l = new ArrayList<>(List.of(1, 2, 3)); for (Integer i : l) l.remove(i); }); t(() -> Map.of("a", 1, "a", 2)); t(() -> new ArrayDeque<Integer>().pop()); t(() -> List.of((Object) null)); t(() -> new TreeMap<String, Integer>().put(null, 1)); t(() -> Collections.emptyList().iterator().next()); t(() -> "abc".substring(5)); t(() -> Integer.parseInt("x1")); t(() -> "a".charAt(9)); t(() -> { int[][] g = new int[2][3]; g[1][5] = 0; }); t(() -> Objects.requireNonNull(null, "must")); t(() -> Objects.checkIndex(3, 2)); t(() -> new PriorityQueue<Object>(List.of(new Object(), new Object()))); } }
// === string format
import java.util.*;
public class Main { public static void main(String[] args) { System.out.printf("%5d|%-5d|%05d|%+d|%,d|%x|%X|%o|%(d%n", 42, 42, 42, 42, 1234567, 255, 255, 8, -5); System.out.printf("%.2f|%8.3f|%e|%g|%10s|%-10s|%c|%b|%%|%n", 3.14159, 2.5, 12345.678, 0.0001234, "hi", "left", 'c', true); System.out.println(String.format("%2$s %1$s %s", "a", "b") + String.format(Locale.GERMANY, "%,.2f", 1234.5) + String.format("%h %S", "hi", "up")); try { String.format("%d", "x"); } catch (IllegalFormatException e) { System.out.println(e.getMessage()); } System.out.println(String.format("|%6.2f|%s|%s|%08.2f|", 1.005, null, List.of(1), -3.14159)); } }
// === big numbers
import java.math.*;
public class Main { public static void main(String[] args) { BigInteger f = BigInteger.ONE; for (int i = 1; i <= 30; i++) f = f.multiply(BigInteger.valueOf(i)); System.out.println(f + " " + f.bitLength() + " " + BigInteger.TWO.modPow(new BigInteger("100"), BigInteger.valueOf(97)) + new BigInteger("123").gcd(BigInteger.valueOf(6)) + BigInteger.valueOf(97).isProbablePrime(10)); System.out.println(new BigDecimal("0.1").add(new BigDecimal("0.2")) + " " + new BigDecimal("10").divide(new BigDecimal("3"), 5, RoundingMode.HALF_UP) + " " + new BigDecimal(0.1).setScale(20, RoundingMode.DOWN) + " " + new BigDecimal("2.50").stripTrailingZeros() + new BigDecimal("2.0").equals(new BigDecimal("2.00")) + new BigDecimal("1E+3").toPlainString() + BigDecimal.valueOf(2).sqrt(new MathContext(10))); try { BigDecimal.ONE.divide(BigDecimal.valueOf(3)); } catch (ArithmeticException e) { System.out.println(e.getMessage()); } } }
// === java.time
import java.time.*;
import java.time.format.*;
import java.time.temporal.*;
import java.util.*;
public class Main { public static void main(String[] args) { LocalDate d = LocalDate.of(2024, 2, 28); System.out.println(d.plusDays(2) + " " + d.isLeapYear() + d.getDayOfWeek() + d.with(TemporalAdjusters.firstDayOfNextMonth()) + " " + ChronoUnit.DAYS.between(d, LocalDate.of(2025, 1, 1)) + Period.between(d, LocalDate.of(2025, 4, 1)) + d.atTime(10, 30)); System.out.println(Duration.ofSeconds(3725) + " " + Duration.between(LocalTime.of(9, 0), LocalTime.of(17, 45)).toMinutes() + " " + Instant.ofEpochSecond(0) + " " + ZonedDateTime.of(2024, 3, 10, 1, 30, 0, 0, ZoneId.of("America/New_York")).plusHours(1) + " " + OffsetDateTime.parse("2024-01-01T00:00:00+02:00").toInstant()); System.out.println(d.format(DateTimeFormatter.ofPattern("EEEE, d MMMM uuuu", Locale.ENGLISH)) + " " + LocalDate.parse("03/04/2024", DateTimeFormatter.ofPattern("dd/MM/yyyy")) + " " + DateTimeFormatter.ISO_WEEK_DATE.format(d) + YearMonth.of(2024, 2).lengthOfMonth() + Year.isLeap(1900)); try { LocalDate.parse("2024-13-01"); } catch (DateTimeParseException e) { System.out.println(e.getMessage()); } } }
// === regex
import java.util.regex.*;
import java.util.*;
public class Main { public static void main(String[] args) { Matcher m = Pattern.compile("(?<user>[\\w.]+)@(?<host>[\\w.]+)").matcher("a.b@x.org, c@d.com"); while (m.find()) System.out.println(m.group("user") + " at " + m.group(2) + " " + m.start() + "-" + m.end()); System.out.println("2024-05-06".replaceAll("(\\d+)-(\\d+)-(\\d+)", "$3.$2.$1") + Pattern.matches("a*b", "aaab") + " " + Pattern.compile(",\\s*").splitAsStream("a, b,c").toList() + " " + Pattern.compile("\\b\\w").matcher("the quick fox").replaceAll(r -> r.group().toUpperCase()) + Pattern.compile("^x", Pattern.MULTILINE | Pattern.CASE_INSENSITIVE).matcher("X\nx").results().count()); try { Pattern.compile("(a"); } catch (PatternSyntaxException e) { System.out.println(e.getMessage()); } } }
// === files and io
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import java.util.stream.*;
public class Main { public static void main(String[] args) throws Exception { Path dir = Files.createTempDirectory("t"); Path f = dir.resolve("a.txt"); Files.writeString(f, "one\ntwo\nthrée\n"); Files.write(f, List.of("four"), StandardOpenOption.APPEND); System.out.println(Files.readAllLines(f) + " " + Files.size(f) + Files.exists(dir.resolve("no"))); try (BufferedReader r = new BufferedReader(new FileReader(f.toFile()))) { String line; int n = 0; while ((line = r.readLine()) != null) n += line.length(); System.out.println(n); } try (PrintWriter w = new PrintWriter(new FileWriter(dir.resolve("b.csv").toFile()))) { w.println("x,y"); w.printf("%d,%d%n", 1, 2); } try (Stream<String> s = Files.lines(dir.resolve("b.csv"))) { System.out.println(s.skip(1).map(l -> l.split(",")).mapToInt(p -> Integer.parseInt(p[1])).sum()); } try (Stream<Path> w = Files.walk(dir)) { System.out.println(w.filter(Files::isRegularFile).map(p -> p.getFileName().toString()).sorted().toList()); } Files.move(f, dir.resolve("c.txt")); try { Files.readString(f); } catch (NoSuchFileException e) { System.out.println("gone " + e.getMessage().endsWith("a.txt")); } try { new FileInputStream("/no/such"); } catch (FileNotFoundException e) { System.out.println(e.getMessage()); } ByteArrayOutputStream o = new ByteArrayOutputStream(); try (DataOutputStream d = new DataOutputStream(o)) { d.writeInt(258); d.writeUTF("é"); } System.out.println(Arrays.toString(o.toByteArray())); StringWriter sw = new StringWriter(); new PrintWriter(sw, true).println("w"); System.out.print(sw); try (Scanner s = new Scanner("1 2.5 word\nrest of line\n")) { s.useLocale(Locale.US); System.out.println(s.nextInt() + s.nextDouble() + s.next() + s.nextLine() + "|" + s.nextLine() + s.hasNext()); } RandomAccessFile raf = new RandomAccessFile(dir.resolve("c.txt").toFile(), "rw"); raf.seek(4); System.out.println((char) raf.read() + "" + raf.length()); raf.close(); } }
// === serialization
import java.io.*;
import java.util.*;
public class Main { static class Base implements Serializable { private static final long serialVersionUID = 1; String n; transient int t = 5; Base(String n) { this.n = n; } private void readObject(ObjectInputStream in) throws IOException, ClassNotFoundException { in.defaultReadObject(); System.out.println("reading " + n); } } record R(int a, List<String> b) implements Serializable { } enum E { X } static class Bad implements Serializable { Object o = new Object(); }
    public static void main(String[] args) throws Exception { ByteArrayOutputStream out = new ByteArrayOutputStream(); try (ObjectOutputStream o = new ObjectOutputStream(out)) { o.writeObject(new Base("x")); o.writeObject(new R(1, new ArrayList<>(List.of("q")))); o.writeObject(E.X); } try (ObjectInputStream in = new ObjectInputStream(new ByteArrayInputStream(out.toByteArray()))) { Base b = (Base) in.readObject(); System.out.println(b.n + b.t + in.readObject() + (in.readObject() == E.X)); } try { new ObjectOutputStream(new ByteArrayOutputStream()).writeObject(new Bad()); } catch (NotSerializableException e) { System.out.println(e); } } }
// === computed serial version
import java.io.*;
class Holder implements Serializable { int a; protected String b; private long c; Holder() { } void m() { } }
public class Main { public static void main(String[] args) { System.out.println(ObjectStreamClass.lookup(Holder.class).getSerialVersionUID()); } }
// === reflection
import java.lang.reflect.*;
import java.util.*;
abstract class Shape { protected String name = "s"; int plain; private static final int K = 3; public Shape() { } protected Shape(String n) { name = n; } abstract double area(); void hidden() { } protected static synchronized final int calc(int a, String... b) throws IllegalStateException { return a; } private List<String> tags() { return List.of("t"); } }
class Sq extends Shape implements Comparable<Sq> { double s = 2; double area() { return s * s; } public int compareTo(Sq o) { return 0; } }
public class Main { public static void main(String[] args) throws Exception {
    Class<?> c = Class.forName("Shape"); System.out.println(c + " " + Modifier.toString(c.getModifiers()) + " " + c.getSuperclass() + Arrays.toString(Sq.class.getInterfaces()) + Arrays.toString(Sq.class.getGenericInterfaces()));
    Method[] ms = c.getDeclaredMethods(); Arrays.sort(ms, Comparator.comparing(Method::getName)); for (Method m : ms) System.out.println(m.toGenericString() + " " + m.isVarArgs()); Field[] fs = c.getDeclaredFields(); Arrays.sort(fs, Comparator.comparing(Field::getName)); for (Field f : fs) System.out.println(f); for (Constructor<?> k : c.getDeclaredConstructors()) System.out.println(Modifier.toString(k.getModifiers()) + k.getParameterCount()); System.out.println(c.getMethods().length - Object.class.getMethods().length + " " + c.getFields().length);
    Sq s = Sq.class.getDeclaredConstructor().newInstance(); Method t = c.getDeclaredMethod("tags"); t.setAccessible(true); System.out.println(t.invoke(s)); Field n = c.getDeclaredField("name"); n.set(s, "new"); System.out.println(s.name + s.area()); try { c.getDeclaredConstructor().newInstance(); } catch (InstantiationException e) { System.out.println(e); } try { c.getMethod("hidden"); } catch (NoSuchMethodException e) { System.out.println(e); } Object arr = Array.newInstance(int.class, 2); Array.set(arr, 1, 5); System.out.println(Arrays.toString((int[]) arr)); for (RecordComponent r : Rec.class.getRecordComponents()) System.out.println(r.getName() + ":" + r.getGenericType());
} record Rec(int id, Map<String, List<Integer>> m) { } }
// === dynamic proxy
import java.lang.reflect.*;
import java.util.*;
public class Main { interface Greeter { String greet(String n); default int count() { return 1; } }
    static class Handler implements InvocationHandler { final Object target; Handler(Object t) { target = t; } public Object invoke(Object p, Method m, Object[] a) throws Throwable { System.out.println("before " + m.getName() + (a == null ? "" : Arrays.toString(a))); try { return m.invoke(target, a); } catch (InvocationTargetException e) { throw e.getCause(); } } }
    public static void main(String[] args) { Greeter g = (Greeter) Proxy.newProxyInstance(Main.class.getClassLoader(), new Class<?>[] {Greeter.class}, new Handler((Greeter) n -> "hi " + n)); System.out.println(g.greet("x") + g.count() + Proxy.isProxyClass(g.getClass())); Comparable<?> c = (Comparable<?>) Proxy.newProxyInstance(Main.class.getClassLoader(), new Class<?>[] {Comparable.class}, (p, m, a) -> m.getName().equals("toString") ? "proxied" : 0); System.out.println(c); } }
// === method handles
import java.lang.invoke.*;
public class Main { private int v = 3; private static String cat(String a, int b) { return a + b; } int get() { return v; }
    public static void main(String[] args) throws Throwable { MethodHandles.Lookup l = MethodHandles.lookup(); MethodHandle h = l.findStatic(Main.class, "cat", MethodType.methodType(String.class, String.class, int.class)); System.out.println((String) h.invokeExact("a", 1) + h.type()); VarHandle x = l.findVarHandle(Main.class, "v", int.class); Main m = new Main(); x.compareAndSet(m, 3, 9); System.out.println((int) l.findVirtual(Main.class, "get", MethodType.methodType(int.class)).invoke(m)); try { MethodHandles.publicLookup().findStatic(Main.class, "cat", h.type()); } catch (IllegalAccessException e) { System.out.println("no access"); } } }
// === resources that are absent
import java.util.*;
public class Main { public static void main(String[] args) { System.out.println(Main.class.getResource("nothing.txt") + " " + Main.class.getResourceAsStream("/none")); try { ResourceBundle.getBundle("messages"); } catch (MissingResourceException e) { System.out.println(e.getMessage().substring(0, 40)); } System.out.println(ServiceLoader.load(Runnable.class).findFirst().isPresent()); } }
// === http server on loopback
import com.sun.net.httpserver.*;
import java.net.*;
import java.net.http.*;
public class Main { public static void main(String[] args) throws Exception { HttpServer s = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0); s.createContext("/hi", x -> { byte[] b = ("hello " + x.getRequestURI().getQuery()).getBytes(); x.sendResponseHeaders(200, b.length); x.getResponseBody().write(b); x.close(); }); s.start(); HttpResponse<String> r = HttpClient.newHttpClient().send(HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + s.getAddress().getPort() + "/hi?q=1")).build(), HttpResponse.BodyHandlers.ofString()); System.out.println(r.statusCode() + r.body()); s.stop(0); System.exit(0); } }
// === sockets on loopback
import java.io.*;
import java.net.*;
public class Main { public static void main(String[] args) throws Exception { try (ServerSocket ss = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) { Thread t = new Thread(() -> { try (Socket c = ss.accept(); BufferedReader r = new BufferedReader(new InputStreamReader(c.getInputStream())); PrintWriter w = new PrintWriter(c.getOutputStream(), true)) { w.println("echo " + r.readLine()); } catch (IOException e) { e.printStackTrace(); } }); t.start(); try (Socket s = new Socket(InetAddress.getLoopbackAddress(), ss.getLocalPort())) { new PrintWriter(s.getOutputStream(), true).println("ping"); System.out.println(new BufferedReader(new InputStreamReader(s.getInputStream())).readLine()); } t.join(); } try { new Socket("127.0.0.1", 1); } catch (ConnectException e) { System.out.println(e.getMessage()); } System.out.println(new URI("http://u@h:8/p?q#f").getPort() + URLEncoder.encode("a b&c", "UTF-8")); } }
// === child processes
import java.io.*;
public class Main { public static void main(String[] args) throws Exception { System.out.println("before"); Process p = new ProcessBuilder("sh", "-c", "echo out; echo err >&2; exit 3").redirectErrorStream(true).start(); System.out.println(new String(p.getInputStream().readAllBytes()) + p.waitFor()); new ProcessBuilder("echo", "inherited").inheritIO().start().waitFor(); System.out.println("between"); new ProcessBuilder("sh", "-c", "echo again").inheritIO().start().waitFor(); System.out.println("after"); Process c = Runtime.getRuntime().exec(new String[] {"cat"}); c.getOutputStream().write("piped".getBytes()); c.getOutputStream().close(); System.out.println(new String(c.getInputStream().readAllBytes())); try { new ProcessBuilder("/no/such/program").start(); } catch (IOException e) { System.out.println(e.getMessage()); } } }
// === properties and environment
import java.util.*;
import java.io.*;
public class Main { public static void main(String[] args) throws Exception { Properties p = new Properties(); p.load(new StringReader("a=1\n# c\nb : two\n")); System.out.println(new TreeMap<>(p) + p.getProperty("z", "def")); System.setProperty("own.key", "v"); System.out.println(System.getProperty("own.key") + System.getProperty("no.such") + System.getenv("NO_SUCH_VARIABLE") + System.lineSeparator().length() + File.separator + System.getProperty("file.encoding") + System.getProperty("java.specification.version")); } }
// === random with a seed
import java.util.*;
public class Main { public static void main(String[] args) { Random r = new Random(42); System.out.println(r.nextInt(100) + " " + r.nextDouble() + " " + r.nextBoolean() + r.nextGaussian() + r.ints(3, 0, 10).boxed().toList()); List<Integer> l = new ArrayList<>(List.of(1, 2, 3, 4)); Collections.shuffle(l, new Random(7)); System.out.println(l + " " + new SplittableRandom(1).nextInt(50) + UUID.nameUUIDFromBytes(new byte[] {1})); } }
// === digests and encodings
import java.security.*;
import java.util.*;
import java.util.zip.*;
import javax.crypto.*;
import javax.crypto.spec.*;
public class Main { public static void main(String[] args) throws Exception { System.out.println(HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest("abc".getBytes())).substring(0, 16) + Base64.getEncoder().encodeToString("hello?".getBytes()) + new String(Base64.getUrlDecoder().decode("aGk_"))); CRC32 c = new CRC32(); c.update("x".getBytes()); System.out.println(c.getValue()); Cipher k = Cipher.getInstance("AES/ECB/PKCS5Padding"); k.init(Cipher.ENCRYPT_MODE, new SecretKeySpec(new byte[16], "AES")); System.out.println(Base64.getEncoder().encodeToString(k.doFinal("s".getBytes()))); Mac m = Mac.getInstance("HmacSHA1"); m.init(new SecretKeySpec("k".getBytes(), "HmacSHA1")); System.out.println(m.doFinal("d".getBytes()).length); try { MessageDigest.getInstance("NOPE"); } catch (NoSuchAlgorithmException e) { System.out.println(e.getMessage()); } } }
// === text and locale
import java.text.*;
import java.util.*;
public class Main { public static void main(String[] args) throws Exception { System.out.println(NumberFormat.getInstance(Locale.US).format(1234567.891) + " " + NumberFormat.getCurrencyInstance(Locale.US).format(-3.5) + " " + new DecimalFormat("#,##0.00", DecimalFormatSymbols.getInstance(Locale.US)).format(1234.5) + " " + NumberFormat.getPercentInstance(Locale.US).format(0.256) + " " + MessageFormat.format("{0} has {1,number,integer}", "x", 5)); SimpleDateFormat f = new SimpleDateFormat("yyyy-MM-dd HH:mm", Locale.US); f.setTimeZone(TimeZone.getTimeZone("UTC")); System.out.println(f.format(new Date(0)) + f.parse("1970-01-02 00:00").getTime() + " " + Locale.getDefault() + " " + Normalizer.normalize("é", Normalizer.Form.NFD).length()); Locale.setDefault(Locale.FRANCE); System.out.println(String.format("%.1f", 1.5)); } }
// === locale is the default again
public class Main { public static void main(String[] args) { System.out.println(String.format("%.1f", 1.5) + java.util.Locale.getDefault()); } }
// === system out that was replaced
import java.io.*;
public class Main { public static void main(String[] args) { PrintStream old = System.out; ByteArrayOutputStream b = new ByteArrayOutputStream(); System.setOut(new PrintStream(b)); System.out.println("captured"); System.out.flush(); old.println("got " + b.toString().trim()); System.setErr(old); System.err.println("err to out"); } }
// === system out works again
public class Main { public static void main(String[] args) { System.out.println("out"); System.err.println("err"); System.out.print('c'); System.out.print(1L); System.out.print(2.5f); System.out.println((Object) null); System.out.append("app").append('x').println(); System.out.write(65); System.out.write('\n'); System.out.flush(); System.out.println(new char[] {'h', 'i'}); System.out.println(true); System.out.printf("%s%n", "end"); } }
// === logging to the console handler
import java.util.logging.*;
public class Main { public static void main(String[] args) { Logger l = Logger.getLogger("demo"); l.setUseParentHandlers(false); StreamHandler h = new StreamHandler(System.out, new Formatter() { public String format(LogRecord r) { return r.getLevel() + " " + r.getMessage() + "\n"; } }); l.addHandler(h); l.info("hello"); l.fine("hidden"); l.warning("careful"); h.flush(); } }
// === timers and scheduled tasks
import java.util.*;
import java.util.concurrent.*;
public class Main { public static void main(String[] args) throws Exception { ScheduledExecutorService s = Executors.newScheduledThreadPool(1); CountDownLatch l = new CountDownLatch(3); s.scheduleAtFixedRate(() -> { if (l.getCount() > 0) { System.out.println("tick " + l.getCount()); l.countDown(); } }, 0, 20, TimeUnit.MILLISECONDS); l.await(); s.shutdownNow(); Timer t = new Timer(true); CountDownLatch d = new CountDownLatch(1); t.schedule(new TimerTask() { public void run() { System.out.println("timer"); d.countDown(); } }, 10); d.await(); t.cancel(); } }
// === stack walking
public class Main { static void a() { b(); } static void b() { StackWalker.getInstance().forEach(f -> System.out.println(f.getMethodName() + ":" + f.getLineNumber())); System.out.println(Thread.currentThread().getStackTrace().length + " " + new Throwable().getStackTrace().length + " " + new Throwable().getStackTrace()[1]); System.out.println(StackWalker.getInstance(StackWalker.Option.RETAIN_CLASS_REFERENCE).getCallerClass()); }
    public static void main(String[] args) { a(); Runnable r = () -> System.out.println(new Throwable().getStackTrace()[0].getMethodName()); r.run(); } }
// === weak references and cleaning
import java.lang.ref.*;
import java.util.*;
public class Main { public static void main(String[] args) { WeakHashMap<Object, String> m = new WeakHashMap<>(); Object k = new Object(); m.put(k, "v"); System.out.println(m.size()); SoftReference<String> s = new SoftReference<>("soft"); System.out.println(s.get()); System.out.println(Runtime.getRuntime().availableProcessors() > 0 && Runtime.getRuntime().totalMemory() > 0); Reference.reachabilityFence(k); } }

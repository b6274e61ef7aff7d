package cloister.kernel;

import java.io.InputStream;
import java.io.OutputStream;
import java.util.List;

/** The run that fills the class-data archive (build.sh): a cell of each kind, with nobody to read the answers. */
final class Training {
    private static final List<String> CELLS = List.of(
        "1 + 1", "int x = 5; x * 2", "String s = \"a\"; System.out.println(s + x); System.out.printf(\"%d%n\", x);",
        "import java.util.stream.*; List.of(1, 2, 3).stream().map(n -> n * 2).collect(Collectors.toList())",
        "int twice(int n) { return n * 2; }\nfor (int i = 0; i < 3; i++) { x += twice(i); }\nnew int[] {1, 2}",
        "record Point(int x, int y) { }\nenum Color { RED }\ninterface Shape { double area(); }\nnew Point(1, 2)",
        "public class Main {\n  static int f(int n) { return n < 2 ? n : f(n - 1) + f(n - 2); }\n"
            + "  public static void main(String[] args) throws Exception {\n    Map<String, Integer> m = new HashMap<>();\n"
            + "    m.put(\"a\", f(5));\n    System.out.println(m);\n    throw new IllegalStateException(\"x\");\n  }\n}",
        "int y = \"no\";", "undefined(1)", "Object o = null; o.toString()", "class A { B b; }\nclass B { }");

    private Training() { }

    static void run() {
        Channel channel = new Channel(InputStream.nullInputStream(), OutputStream.nullOutputStream());
        System.setOut(new Output(text -> channel.sendText("stdout", 0, text)));
        Session session = new Session(channel);
        for (String cell : CELLS) {
            Environment environment = new Environment(Json.parse("{\"op\":\"execute\",\"id\":1,\"envs\":{\"K\":\"v\"}}").get("envs"));
            session.run(1, cell);
            environment.restore();
        }
        System.exit(0); // the archive is written at exit
    }
}

package cloister.kernel;

import cloister.kernel.Shape.Item;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import jdk.jshell.Snippet;
import jdk.jshell.TypeDeclSnippet;

/** Recognizes whole programs: cells of declarations alone, one of which has a main method. */
final class Program {
    private static final Pattern MAIN = Pattern.compile("\\bstatic\\s+(?:final\\s+)?void\\s+main\\s*\\(\\s*(?:final\\s+)?(String[^)]*)?\\)");
    private static final Pattern PACKAGE = Pattern.compile("\\A((?:\\s|//[^\\n]*\\n|/\\*.*?\\*/)*)package\\s+[\\w.]+\\s*;", Pattern.DOTALL);

    private Program() { }

    /** The file that a cell's types would be in if it is a program, a class with a main method and nothing but declarations of types; else null. */
    static String file(String code, List<Item> items) {
        Item found = null;
        for (Item item : items) {
            if (item.kind() == Shape.Kind.OTHER) {
                return null;
            }
            if (item.kind() == Shape.Kind.TYPE && MAIN.matcher(code.substring(item.start(), item.end())).find() && (found == null || !found.isPublic())) {
                found = found == null || item.isPublic() ? item : found;
            }
        }
        return found == null ? null : found.name() + ".java";
    }

    /** The main method of the first public of these classes that has one, else of the first; bound to no arguments. Null: none has. */
    static MethodHandle entry(List<Class<?>> types) throws IllegalAccessException {
        Method found = null;
        for (Class<?> type : types) {
            Method main = main(type);
            if (main != null && (found == null || Modifier.isPublic(type.getModifiers()))) {
                found = main;
                if (Modifier.isPublic(type.getModifiers())) {
                    break;
                }
            }
        }
        if (found == null) {
            return null;
        }
        found.setAccessible(true);
        MethodHandle handle = MethodHandles.lookup().unreflect(found).asFixedArity();
        return found.getParameterCount() == 0 ? handle : MethodHandles.insertArguments(handle, 0, (Object) new String[0]);
    }

    /** A class's main method, its own or inherited. */
    private static Method main(Class<?> type) {
        for (Class<?> owner = type; owner != null; owner = owner.getSuperclass()) {
            for (Class<?>[] parameters : new Class<?>[][] {{String[].class}, {}}) {
                try {
                    Method main = owner.getDeclaredMethod("main", parameters);
                    if (Modifier.isStatic(main.getModifiers()) && main.getReturnType() == void.class) {
                        return main;
                    }
                } catch (NoSuchMethodException none) {
                    // the next one may have it
                }
            }
        }
        return null;
    }

    /** The code with its package line blanked: a cell has no package. */
    static String withoutPackage(String code) {
        Matcher match = PACKAGE.matcher(code);
        if (!match.find()) {
            return code;
        }
        String line = match.group().substring(match.group(1).length());
        return match.group(1) + " ".repeat(line.length()) + code.substring(match.end());
    }

    /** The expression that runs the program that these snippets declare, or null when they are none. */
    static String start(List<Snippet> snippets) {
        String found = null;
        for (Snippet snippet : snippets) {
            switch (snippet.kind()) {
                case IMPORT -> { }
                case TYPE_DECL -> {
                    String call = call(((TypeDeclSnippet) snippet).name() + ".", snippet.source());
                    boolean first = found == null || snippet.source().stripLeading().startsWith("public");
                    found = call != null && first ? call : found;
                }
                case METHOD -> {
                    String call = call("", snippet.source());
                    found = found == null ? call : found;
                }
                default -> {
                    return null;
                }
            }
        }
        return found;
    }

    /** Whether these snippets are declarations and imports alone. */
    static boolean isDeclarations(List<Snippet> snippets) {
        return snippets.stream().allMatch(one -> one.kind() == Snippet.Kind.IMPORT || one.kind() == Snippet.Kind.METHOD || one.kind() == Snippet.Kind.TYPE_DECL);
    }

    private static String call(String owner, String source) {
        Matcher match = MAIN.matcher(source);
        if (!match.find()) {
            return null;
        }
        return owner + (match.group(1) == null ? "main()" : "main(new String[0])");
    }
}

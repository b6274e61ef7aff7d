package cloister.kernel;

import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import jdk.jshell.Snippet;
import jdk.jshell.TypeDeclSnippet;

/** Recognizes whole programs: a cell of declarations alone, one of which has a main method. */
final class Program {
    private static final Pattern MAIN = Pattern.compile("\\bstatic\\s+(?:final\\s+)?void\\s+main\\s*\\(\\s*(?:final\\s+)?(String[^)]*)?\\)");
    private static final Pattern PACKAGE = Pattern.compile("\\A((?:\\s|//[^\\n]*\\n|/\\*.*?\\*/)*)package\\s+[\\w.]+\\s*;", Pattern.DOTALL);

    private Program() { }

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

    private static String call(String owner, String source) {
        Matcher match = MAIN.matcher(source);
        if (!match.find()) {
            return null;
        }
        return owner + (match.group(1) == null ? "main()" : "main(new String[0])");
    }
}

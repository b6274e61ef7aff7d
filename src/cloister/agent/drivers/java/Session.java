package cloister.kernel;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import jdk.jshell.DeclarationSnippet;
import jdk.jshell.Diag;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;
import jdk.jshell.SourceCodeAnalysis;
import jdk.jshell.SourceCodeAnalysis.Completeness;
import jdk.jshell.SourceCodeAnalysis.CompletionInfo;
import jdk.jshell.UnresolvedReferenceException;

/** The JShell state of a context, and one run of code in it: snippet after snippet, until one fails. */
final class Session {
    private final Lines lines = new Lines();
    private final Engine engine = new Engine(lines);
    private final JShell shell;
    private final SourceCodeAnalysis analysis;
    private final Channel channel;
    private final List<Snippet> declared = new ArrayList<>();
    private int count;
    private int id;

    Session(Channel channel) {
        this.channel = channel;
        shell = JShell.builder().executionEngine(new Provider(engine), Map.of()).build();
        lines.attach(shell);
        analysis = shell.sourceCodeAnalysis();
        Imports.enter(shell);
    }

    Engine engine() {
        return engine;
    }

    /** How many cells were run. */
    int count() {
        return count;
    }

    /** Runs a cell. Messages go to the channel. */
    void run(int runId, String source) {
        id = runId;
        count++;
        declared.clear();
        engine.begin(runId);
        try {
            if (evaluate(Program.withoutPackage(source))) {
                startProgram();
            }
        } finally {
            engine.end();
            reportStop();
        }
    }

    /** Evaluates snippets until one fails; whether none did. */
    private boolean evaluate(String code) {
        String rest = code;
        while (!rest.isBlank() && !isStopped()) {
            CompletionInfo info = analysis.analyzeCompletion(rest);
            if (info.completeness() == Completeness.EMPTY) {
                return true;
            }
            boolean whole = info.completeness().isComplete() || info.completeness() == Completeness.CONSIDERED_INCOMPLETE;
            String next = whole ? info.remaining() : "";
            String written = rest.substring(0, rest.length() - next.length());
            String source = (whole ? info.source() : written).stripLeading();
            int start = code.length() - written.stripLeading().length() - next.length();
            lines.remember(source.stripTrailing(), new Lines.Origin(count, lineAt(code, start)));
            if (!evaluateOne(source.stripTrailing(), written, next.isBlank())) {
                return false;
            }
            rest = next;
        }
        return true;
    }

    private static int lineAt(String text, int position) {
        return (int) text.substring(0, position).chars().filter(c -> c == '\n').count();
    }

    private boolean evaluateOne(String source, String written, boolean last) {
        for (SnippetEvent event : shell.eval(source)) {
            if (event.causeSnippet() != null) {
                continue; // an earlier declaration that this one completes
            }
            if (event.status() == Snippet.Status.REJECTED) {
                reject(event.snippet());
                return false;
            }
            declared.add(event.snippet());
            if (event.exception() != null) {
                fail(event.exception() instanceof UnresolvedReferenceException missing ? missing : null);
                return false;
            }
            if (last && isShown(event.snippet(), written)) {
                channel.send("result", id, "main", true, "data", Map.of("text/plain", Values.text(engine.value)), "extra", Map.of());
            }
        }
        return true;
    }

    /** Expressions are shown, unless they are statements: calls, assignments and increments that end with a semicolon. */
    private boolean isShown(Snippet snippet, String written) {
        if (isStopped() || written.stripTrailing().endsWith(";")) {
            return false;
        }
        return switch (snippet.subKind()) {
            case TEMP_VAR_EXPRESSION_SUBKIND, VAR_VALUE_SUBKIND, OTHER_EXPRESSION_SUBKIND, ASSIGNMENT_SUBKIND -> engine.value != null
                || snippet.subKind() != Snippet.SubKind.OTHER_EXPRESSION_SUBKIND;
            default -> false;
        };
    }

    private void startProgram() {
        String call = Program.start(declared);
        for (Snippet snippet : declared) {
            if (snippet instanceof DeclarationSnippet declaration && isUnresolved(declaration)) {
                if (call != null) {
                    reject(snippet);
                    return;
                }
                channel.sendText("stderr", id, "declared, but not usable until this is: " + missing(declaration) + "\n");
            }
        }
        if (call != null && !isStopped()) {
            evaluateOne(call + ";", call + ";", true);
        }
    }

    private boolean isUnresolved(DeclarationSnippet snippet) {
        Snippet.Status status = shell.status(snippet);
        return status == Snippet.Status.RECOVERABLE_DEFINED || status == Snippet.Status.RECOVERABLE_NOT_DEFINED;
    }

    private String missing(DeclarationSnippet snippet) {
        return String.join(", ", shell.unresolvedDependencies(snippet).toList());
    }

    private void fail(UnresolvedReferenceException missing) {
        if (missing != null) {
            reject(missing.getSnippet());
        } else if (!isStopped()) {
            Throwable thrown = engine.thrown;
            String value = thrown.getMessage() == null ? "" : Traces.names(thrown.getMessage());
            channel.send("error", id, "name", Traces.names(thrown.getClass().getName()), "value", value, "traceback", Traces.render(thrown));
        }
    }

    /** Reports what is wrong with a snippet, each error with its line and a mark below the column. */
    private void reject(Snippet snippet) {
        List<String> found = new ArrayList<>();
        for (Diag diagnostic : shell.diagnostics(snippet).filter(Diag::isError).toList()) {
            String message = Traces.names(diagnostic.getMessage(Locale.ENGLISH)).replaceFirst("\n *location: class *$", "");
            found.add(locate(snippet, diagnostic.getPosition()) + message);
        }
        if (found.isEmpty() && snippet instanceof DeclarationSnippet declaration) {
            shell.unresolvedDependencies(declaration).forEach(name -> found.add(locateName(declaration, name) + "cannot find symbol: " + name));
        }
        String text = found.isEmpty() ? "the code does not compile" : String.join("\n", found);
        String value = found.isEmpty() ? text : found.get(0).substring(found.get(0).indexOf("^\n") + 2).lines().findFirst().orElse(text);
        channel.send("error", id, "name", "CompilationError", "value", value, "traceback", text);
    }

    private String locateName(Snippet snippet, String dependency) {
        String name = dependency.replaceFirst("\\(.*", "").replaceFirst(".*[ .]", "");
        Matcher match = Pattern.compile("\\b" + Pattern.quote(name) + "\\b").matcher(snippet.source());
        return locate(snippet, match.find() ? match.start() : 0);
    }

    private String locate(Snippet snippet, long position) {
        String source = snippet.source();
        int at = Math.clamp(position, 0, source.length());
        int start = source.lastIndexOf('\n', at - 1) + 1;
        int end = source.indexOf('\n', at);
        String line = source.substring(start, end < 0 ? source.length() : end);
        Lines.Origin origin = lines.origin(snippet);
        int number = origin.line() + lineAt(source, at) + 1;
        String place = "cell-" + origin.cell() + ":" + number + ":" + (at - start + 1);
        return place + ": error:\n" + line + "\n" + " ".repeat(at - start) + "^\n";
    }

    private boolean isStopped() {
        return engine.isInterrupted() || engine.exitCode() != null;
    }

    private void reportStop() {
        Integer exit = engine.exitCode();
        if (engine.isInterrupted()) {
            channel.send("error", id, "name", "KeyboardInterrupt", "value", "interrupted", "traceback", "KeyboardInterrupt: interrupted");
        } else if (exit != null && exit != 0) {
            String value = "exit code " + exit;
            channel.send("error", id, "name", "SystemExit", "value", value, "traceback", "SystemExit: " + value);
        }
    }
}

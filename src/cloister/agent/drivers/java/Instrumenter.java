package cloister.kernel;

import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import jdk.internal.org.objectweb.asm.ClassReader;
import jdk.internal.org.objectweb.asm.ClassVisitor;
import jdk.internal.org.objectweb.asm.ClassWriter;
import jdk.internal.org.objectweb.asm.Label;
import jdk.internal.org.objectweb.asm.MethodVisitor;
import jdk.internal.org.objectweb.asm.Opcodes;

/** Puts calls of {@link Guard} into user classes as they are loaded, so that any loop can be stopped: JDK 21 has no other way to end a thread. */
final class Instrumenter {
    private static final String GUARD = "cloister/kernel/Guard";
    /** Methods of the JDK whose calls go to the Guard's of the same name; the receiver's descriptor becomes its first parameter's. */
    private static final Map<String, String> REPLACED = Map.of(
        "java/lang/System.exit", "", "java/lang/Runtime.exit", "Ljava/lang/Runtime;", "java/lang/Runtime.halt", "Ljava/lang/Runtime;",
        "java/lang/Runtime.exec", "Ljava/lang/Runtime;", "java/lang/ProcessBuilder.start", "Ljava/lang/ProcessBuilder;",
        "java/lang/ProcessBuilder.startPipeline", "");

    private Instrumenter() { }

    /** The class with checks; its lines and file name become those of the user's cell when a wrapper of {@link Lines} is given. */
    static byte[] instrument(byte[] bytes, Lines lines, Object wrapper) {
        ClassReader reader = new ClassReader(bytes);
        ClassWriter writer = new ClassWriter(reader, ClassWriter.COMPUTE_MAXS);
        reader.accept(new Rewriter(writer, lines, wrapper), 0);
        return writer.toByteArray();
    }

    private static final class Rewriter extends ClassVisitor {
        private final Lines lines;
        private final Object wrapper;
        private String file;

        Rewriter(ClassVisitor next, Lines lines, Object wrapper) {
            super(Opcodes.ASM8, next);
            this.lines = lines;
            this.wrapper = wrapper;
        }

        @Override
        public void visitSource(String name, String debug) {
            file = name; // written at the end, when a line has said which cell it is
        }

        @Override
        public MethodVisitor visitMethod(int access, String name, String descriptor, String signature, String[] exceptions) {
            return new Checks(super.visitMethod(access, name, descriptor, signature, exceptions), this);
        }

        int line(int wrapped) {
            if (wrapper == null) {
                return wrapped;
            }
            String cell = lines.file(wrapper, wrapped);
            file = cell == null ? file : cell;
            return lines.line(wrapper, wrapped);
        }

        @Override
        public void visitEnd() {
            super.visitSource(file, null);
            super.visitEnd();
        }
    }

    private static final class Checks extends MethodVisitor {
        private final Set<Label> passed = new HashSet<>();

        private final Rewriter owner;

        Checks(MethodVisitor next, Rewriter owner) {
            super(Opcodes.ASM8, next);
            this.owner = owner;
        }

        @Override
        public void visitLineNumber(int line, Label start) {
            int own = owner.line(line);
            if (own > 0) {
                super.visitLineNumber(own, start);
            }
        }

        private void check() {
            super.visitMethodInsn(Opcodes.INVOKESTATIC, GUARD, "check", "()V", false);
        }

        @Override
        public void visitCode() {
            super.visitCode();
            check();
        }

        @Override
        public void visitLabel(Label label) {
            passed.add(label);
            super.visitLabel(label);
        }

        @Override
        public void visitJumpInsn(int opcode, Label target) {
            if (passed.contains(target)) {
                check();
            }
            super.visitJumpInsn(opcode, target);
        }

        @Override
        public void visitMethodInsn(int opcode, String owner, String name, String descriptor, boolean isInterface) {
            String receiver = REPLACED.get(owner + "." + name);
            if (receiver == null || opcode == Opcodes.INVOKESPECIAL) {
                super.visitMethodInsn(opcode, owner, name, descriptor, isInterface);
                return;
            }
            String guarded = opcode == Opcodes.INVOKESTATIC ? descriptor : "(" + receiver + descriptor.substring(1);
            super.visitMethodInsn(Opcodes.INVOKESTATIC, GUARD, name.equals("halt") ? "exit" : name, guarded, false);
        }
    }
}

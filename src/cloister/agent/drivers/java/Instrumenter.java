package cloister.kernel;

import java.util.HashSet;
import java.util.Set;
import java.util.function.IntUnaryOperator;
import jdk.internal.org.objectweb.asm.ClassReader;
import jdk.internal.org.objectweb.asm.ClassVisitor;
import jdk.internal.org.objectweb.asm.ClassWriter;
import jdk.internal.org.objectweb.asm.Label;
import jdk.internal.org.objectweb.asm.MethodVisitor;
import jdk.internal.org.objectweb.asm.Opcodes;

/** Puts calls of {@link Guard} into user classes as they are loaded, so that any loop can be stopped: JDK 21 has no other way to end a thread. */
final class Instrumenter {
    private static final String GUARD = "cloister/kernel/Guard";

    private Instrumenter() { }

    /** Source is the file name that stack traces shall show, or null; lines maps the class's lines to that file's (0: none), or is null. */
    static byte[] instrument(byte[] bytes, String source, IntUnaryOperator lines) {
        ClassReader reader = new ClassReader(bytes);
        ClassWriter writer = new ClassWriter(reader, ClassWriter.COMPUTE_MAXS);
        reader.accept(new ClassVisitor(Opcodes.ASM8, writer) {
            @Override
            public void visitSource(String file, String debug) {
                super.visitSource(source == null ? file : source, null);
            }

            @Override
            public MethodVisitor visitMethod(int access, String name, String descriptor, String signature, String[] exceptions) {
                return new Checks(super.visitMethod(access, name, descriptor, signature, exceptions), lines);
            }
        }, 0);
        return writer.toByteArray();
    }

    private static final class Checks extends MethodVisitor {
        private final Set<Label> passed = new HashSet<>();

        private final IntUnaryOperator lines;

        Checks(MethodVisitor next, IntUnaryOperator lines) {
            super(Opcodes.ASM8, next);
            this.lines = lines;
        }

        @Override
        public void visitLineNumber(int line, Label start) {
            int own = lines == null ? line : lines.applyAsInt(line);
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
            boolean exits = descriptor.equals("(I)V") && (name.equals("exit") || name.equals("halt"));
            if (exits && owner.equals("java/lang/System")) {
                super.visitMethodInsn(Opcodes.INVOKESTATIC, GUARD, "exit", "(I)V", false);
            } else if (exits && owner.equals("java/lang/Runtime")) {
                super.visitMethodInsn(Opcodes.INVOKESTATIC, GUARD, "exit", "(Ljava/lang/Runtime;I)V", false);
            } else {
                super.visitMethodInsn(opcode, owner, name, descriptor, isInterface);
            }
        }
    }
}

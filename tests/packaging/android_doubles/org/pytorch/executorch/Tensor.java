package org.pytorch.executorch;

public abstract class Tensor {
    final long[] shape;

    Tensor(long[] shape) {
        this.shape = shape;
    }

    public static Tensor fromBlob(float[] data, long[] shape) {
        return new Floats(data, shape);
    }

    public float[] getDataAsFloatArray() {
        throw new IllegalStateException("no floats");
    }

    public long[] getDataAsLongArray() {
        throw new IllegalStateException("no longs");
    }

    static final class Floats extends Tensor {
        private final float[] data;

        Floats(float[] data, long[] shape) {
            super(shape);
            this.data = data;
        }

        @Override
        public float[] getDataAsFloatArray() {
            return data;
        }
    }

    static final class Longs extends Tensor {
        private final long[] data;

        Longs(long[] data) {
            super(new long[] {data.length});
            this.data = data;
        }

        @Override
        public long[] getDataAsLongArray() {
            return data;
        }
    }
}

package android.os;

import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

public class Handler {
    private static final ExecutorService MAIN =
            Executors.newSingleThreadExecutor(
                    task -> {
                        Thread thread = new Thread(task, Looper.MAIN);
                        thread.setDaemon(true);
                        return thread;
                    });

    public Handler(Looper looper) {}

    public final boolean post(Runnable task) {
        MAIN.execute(task);
        return true;
    }
}

package android.content;

public class Intent {
    public static final String ACTION_GET_CONTENT = "android.intent.action.GET_CONTENT";

    public Intent(String action) {}

    public native Intent setType(String type);

    public native android.net.Uri getData();
}

package android.app;

import android.content.ContentResolver;
import android.content.Context;
import android.content.Intent;
import android.os.Bundle;
import android.view.View;

public class Activity extends Context {
    @Override
    public native Context getApplicationContext();

    @Override
    public native android.content.res.AssetManager getAssets();

    @Override
    public native java.io.File getNoBackupFilesDir();

    protected void onCreate(Bundle savedInstanceState) {}

    protected void onActivityResult(int requestCode, int resultCode, Intent data) {}

    protected void onDestroy() {}

    public void setContentView(View view) {}

    public void startActivityForResult(Intent intent, int requestCode) {}

    public native boolean isDestroyed();

    public native ContentResolver getContentResolver();

    public final native void runOnUiThread(Runnable action);
}

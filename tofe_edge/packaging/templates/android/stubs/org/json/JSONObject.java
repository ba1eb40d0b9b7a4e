package org.json;

public class JSONObject {
    public JSONObject(String json) throws JSONException {}

    public native boolean getBoolean(String name) throws JSONException;
    public native String getString(String name) throws JSONException;
    public native JSONArray getJSONArray(String name) throws JSONException;
}

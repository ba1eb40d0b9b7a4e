package org.json;

public class JSONArray {
    public native int length();
    public native double getDouble(int index) throws JSONException;
    public native int getInt(int index) throws JSONException;
    public native JSONArray getJSONArray(int index) throws JSONException;
    public native JSONObject getJSONObject(int index) throws JSONException;
}

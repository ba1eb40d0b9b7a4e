plugins {
    id("com.android.library")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "@PACKAGE@"
    compileSdk = 34

    defaultConfig {
        minSdk = @MIN_SDK@
        consumerProguardFiles("consumer-rules.pro")
    }

    androidResources {
        noCompress += "pte"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

kotlin {
    compilerOptions {
        jvmTarget.set(org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11)
    }
}

dependencies {
    // The version that the model was converted with.
    api("org.pytorch:executorch-android:@EXECUTORCH@")
}

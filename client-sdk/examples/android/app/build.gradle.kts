plugins {
    id("com.android.application") version "8.7.3"
    kotlin("android") version "2.1.0"
    id("org.jetbrains.kotlin.plugin.compose") version "2.1.0"
}

android {
    namespace = "org.example.graft"
    compileSdk = 35
    defaultConfig {
        applicationId = "org.example.graft"
        minSdk = 26
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    buildFeatures {
        compose = true
    }
    // The model's folder is put among the assets, and so is ca.pem, if there is a site.
    sourceSets["main"].assets.srcDirs("src/main/assets", "../../../../models")
}

kotlin {
    jvmToolchain(17)
}

dependencies {
    implementation(project(":graft"))
    implementation(platform("androidx.compose:compose-bom:2024.12.01"))
    implementation("androidx.activity:activity-compose:1.9.3")
    implementation("androidx.compose.material3:material3")
}

pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "graft-example"
include(":app")
// The library, as `client-sdk/bindings/package.sh aarch64-linux-android` packs it.
include(":graft")
project(":graft").projectDir = file("../../../target/packages/kotlin")

fn main() {
    // `sqlx::migrate!` reads the folder at compile time.
    println!("cargo:rerun-if-changed=migrations");
}

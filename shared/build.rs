//! Rebuilds this package when a migration is added: the macro that embeds them names only the files
//! that existed at its last run.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}

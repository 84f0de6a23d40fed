//! It installs ring for the whole process, as one has to that has no other.

#[path = "../../use_the_crate.rs"]
mod use_the_crate;

#[tokio::main]
async fn main() {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    drop(rustls::ClientConfig::builder());
    drop(reqwest::Client::new());
    use_the_crate::use_the_crate().await;
    println!("ring: all is well");
}

//! It asked for no TLS: what it makes with reqwest must work as before.

#[path = "../../use_the_crate.rs"]
mod use_the_crate;

#[tokio::main]
async fn main() {
    drop(reqwest::Client::new());
    use_the_crate::use_the_crate().await;
    println!("without_tls: all is well");
}

//! It makes a rustls configuration with the process's default provider, of which there has to be one.

#[path = "../../use_the_crate.rs"]
mod use_the_crate;

#[tokio::main]
async fn main() {
    let roots = rustls::RootCertStore::empty();
    let config =
        rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    assert!(config.enable_sni);
    drop(reqwest::Client::new());
    use_the_crate::use_the_crate().await;
    println!("rustls_of_its_own: all is well");
}

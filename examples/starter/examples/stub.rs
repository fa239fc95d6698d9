//! The partner's stub on the address that noshi.toml names: `cargo run --example stub`.

#[path = "../tests/stub/mod.rs"]
mod stub;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8099").await?;
    println!("the partner's stub listens on http://{}", listener.local_addr()?);
    axum::serve(listener, stub::routes(&stub::Stub::default())).await?;
    Ok(())
}

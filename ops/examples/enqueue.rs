//! A gift for a user, asked for in the producer's own transaction: it is there if the order is, and only then.
//!
//!     DATABASE_URL=postgres://… cargo run --example enqueue -- 42
//!
//! The login needs the role noshi_producer, and nothing else.

use serde_json::json;
use sqlx::{Connection, PgConnection, postgres::PgDatabaseError};

async fn enqueue(connection: &mut PgConnection, order: &str, amount: i64) -> Result<i64, sqlx::Error> {
    let grant = format!("order/{order}");
    let value = json!({"amount": amount, "currency": "JPY"});
    let args = json!({"grant": grant, "user": "user-7", "category": "amazon", "value": value});
    sqlx::query_scalar("select noshi.enqueue('gift_issuance', $1, $2)")
        .bind(grant)
        .bind(args)
        .fetch_one(connection)
        .await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let order = std::env::args().nth(1).unwrap_or_else(|| "42".to_owned());
    let mut connection = PgConnection::connect(&std::env::var("DATABASE_URL")?).await?;

    let mut transaction = connection.begin().await?;
    // sqlx::query("insert into shop_order …").execute(&mut *transaction).await?;
    println!("job {}", enqueue(&mut transaction, &order, 500).await?);
    transaction.commit().await?;

    // Sent again, after an answer that was lost, say: the same job.
    println!("again job {}", enqueue(&mut connection, &order, 500).await?);

    // The same id for something else is refused, and the detail says what differs.
    let refused = enqueue(&mut connection, &order, 600).await;
    let Err(sqlx::Error::Database(error)) = refused else { anyhow::bail!("it was not refused: {refused:?}") };
    let error = error.downcast::<PgDatabaseError>();
    anyhow::ensure!(error.code() == "NS409", "{error}");
    println!("refused {} {}", error.code(), error.detail().unwrap_or_default());
    Ok(())
}

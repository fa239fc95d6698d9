// A gift for a user, asked for in the producer's own transaction: it is there if the order is, and only then.
//
//     npm install pg
//     DATABASE_URL=postgres://… node ops/examples/enqueue.mjs 42
//
// The login needs the role noshi_producer, and nothing else.
import { createRequire } from "node:module";

// `pg` from where the program runs, like that of any application.
const { Client } = createRequire(process.cwd() + "/")("pg");

const client = new Client({ connectionString: process.env.DATABASE_URL });
const order = process.argv[2];

async function enqueue(amount) {
    const grant = `order/${order}`;
    const args = { grant, user: "user-7", category: "amazon", value: { amount, currency: "JPY" } };
    const result = await client.query("select noshi.enqueue('gift_issuance', $1, $2) as job", [grant, args]);
    return result.rows[0].job;
}

async function transaction(work) {
    await client.query("begin");
    try {
        const result = await work();
        await client.query("commit");
        return result;
    } catch (error) {
        await client.query("rollback");
        throw error;
    }
}

await client.connect();
try {
    console.log("job", await transaction(async () => {
        // await client.query("insert into shop_order …");
        return enqueue(500);
    }));

    // Sent again, after an answer that was lost, say: the same job.
    console.log("again job", await transaction(() => enqueue(500)));

    // The same id for something else is refused, and the detail says what differs.
    try {
        await transaction(() => enqueue(600));
    } catch (error) {
        if (error.code !== "NS409") throw error;
        console.log("refused", error.code, error.detail);
    }
} finally {
    await client.end();
}

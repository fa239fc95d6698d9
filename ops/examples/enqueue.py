"""A gift for a user, asked for in the producer's own transaction: it is there if the order is, and only then.

    pip install psycopg[binary]
    DATABASE_URL=postgres://… python3 ops/examples/enqueue.py 42

The login needs the role noshi_producer, and nothing else.
"""

import os
import sys

import psycopg
from psycopg.types.json import Jsonb


def enqueue(connection, order, amount):
    grant = f"order/{order}"
    args = {"grant": grant, "user": "user-7", "category": "amazon", "value": {"amount": amount, "currency": "JPY"}}
    row = connection.execute("select noshi.enqueue('gift_issuance', %s, %s)", (grant, Jsonb(args))).fetchone()
    return row[0]


def main(order):
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        with connection.transaction():
            # connection.execute("insert into shop_order …")
            print("job", enqueue(connection, order, 500))

        # Sent again, after an answer that was lost, say: the same job.
        with connection.transaction():
            print("again job", enqueue(connection, order, 500))

        # The same id for something else is refused, and the detail says what differs.
        try:
            with connection.transaction():
                enqueue(connection, order, 600)
        except psycopg.Error as error:
            if error.sqlstate != "NS409":
                raise
            print("refused", error.sqlstate, error.diag.message_detail)


main(sys.argv[1])

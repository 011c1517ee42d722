#!/bin/sh
# Write what compose.yaml reads as secrets, once: files that exist are kept.
#
#   sh deploy/make-secrets.sh [FOLDER]        default: deploy/secrets beside this script
#
# The folder is closed to others; the files in it are readable, because a container's user is not its owner.
# At first every address logs in as the servers' own administrator. Replace them by logins that may do less.
set -eu
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"

put() { # put NAME TEXT
  if [ ! -s "$folder/$1" ]; then
    printf '%s\n' "$2" > "$folder/$1.new"
    chmod 644 "$folder/$1.new"
    mv "$folder/$1.new" "$folder/$1"
    echo "wrote $folder/$1"
  fi
}

draw() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

put postgres_password "$(draw)"
put rabbitmq_password "$(draw)"
postgres=$(cat "$folder/postgres_password")
rabbitmq=$(cat "$folder/rabbitmq_password")
put migrate_ts_dsn "postgresql://postgres:$postgres@timescaledb:5432/trading_bus"
for service in ohlcv metric registry macro influencer; do
  put "${service}_ts_dsn" "postgresql://postgres:$postgres@timescaledb:5432/trading_bus"
  put "${service}_rmq_url" "amqp://trading_bus:$rabbitmq@rabbitmq:5672/"
done

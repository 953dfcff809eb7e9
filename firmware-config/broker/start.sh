#!/bin/sh
# Starts the local broker; opens its door to the local network where SENSORS_PASSWORD is set.
set -eu
umask 077
conf=/tmp/mosquitto.conf
cat /etc/fieldloop/mosquitto.conf > "$conf"
if [ -n "${SENSORS_PASSWORD:-}" ]; then
  mosquitto_passwd -c -b /tmp/passwords "${SENSORS_USER:-sensor}" "$SENSORS_PASSWORD"
  # Sensors may publish under sensors/ and read nothing but what the device says in public.
  printf 'user %s\ntopic write sensors/#\ntopic read local/#\n' "${SENSORS_USER:-sensor}" > /tmp/acl
  printf '\nlistener 1884\nallow_anonymous false\npassword_file /tmp/passwords\nacl_file /tmp/acl\n' >> "$conf"
fi
exec mosquitto -c "$conf"

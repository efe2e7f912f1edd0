#!/bin/sh
# Certificates of a deployment's own authority, for broker and database, and for who comes to them from elsewhere.
#   sh docker/certificates.sh FOLDER NAME [HOST...]
# makes FOLDER/NAME.crt and FOLDER/NAME.key: with hosts (names or IPv4 addresses) for a server of these names, without any for a
# client. The authority, FOLDER/ca.crt and FOLDER/ca.key, is made by the first call: ca.crt goes everywhere, ca.key
# nowhere. What is there is never written over; to renew a certificate, delete it and call again.
set -eu
test $# -ge 2 || { sed -n 's/^#   //p' "$0" >&2; exit 2; }
folder=$1 name=$2
shift 2
case $name in ca | *[!a-z0-9-]* | '') echo "a name is of small letters, digits and hyphens, and not 'ca': $name" >&2; exit 2 ;; esac
umask 077
mkdir -p "$folder"
cd "$folder"
test ! -e "$name.crt" || { echo "$folder/$name.crt is there already" >&2; exit 3; }
new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:prime256v1 -out "$1"; }

if [ ! -e ca.crt ]; then
  new_key ca.key
  openssl req -x509 -new -key ca.key -sha256 -days 3650 -subj "/CN=RouteT2I authority" -out ca.crt \
    -addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign
fi

names= use=clientAuth
for host; do
  case $host in
    *[!0-9.]*) names="$names,DNS:$host" ;;
    *) names="$names,IP:$host" ;;
  esac
done
{
  echo basicConstraints=critical,CA:FALSE
  echo keyUsage=critical,digitalSignature
  if [ -n "$names" ]; then use=serverAuth; echo "subjectAltName=${names#,}"; fi
  echo "extendedKeyUsage=$use"
} > "$name.ext"
new_key "$name.key"
openssl req -new -key "$name.key" -subj "/CN=$name" -out "$name.csr"
openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -sha256 -days 365 \
  -extfile "$name.ext" -out "$name.crt" 2> /dev/null
rm "$name.csr" "$name.ext"
chmod 644 ca.crt "$name.crt"
echo "$folder/$name.crt: $use, until $(openssl x509 -in "$name.crt" -noout -enddate | cut -d= -f2)"

#!/usr/bin/env bash
# Makes the certificates of the tests in this folder, valid from 2020 to 2120, by a new CA.
set -e
cd "$(dirname "$0")"
T=$(mktemp -d)
new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout $1.key -out $T/$1.csr -utf8 -subj "$2" 2>/dev/null; }
mkdir -p $T/db; : > $T/db/index.txt; echo 01 > $T/db/serial
cat > $T/ca.cnf <<X
[ca]
default_ca=d
[d]
database=$T/db/index.txt
serial=$T/db/serial
new_certs_dir=$T/db
default_md=sha256
policy=p
unique_subject=no
string_mask=utf8only
[p]
[root]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
[site]
subjectAltName=DNS:a.test,DNS:*.wild.test
extendedKeyUsage=serverAuth
[other]
subjectAltName=DNS:B.test,IP:127.0.0.1
extendedKeyUsage=serverAuth
[client]
extendedKeyUsage=clientAuth
X
sign() { openssl ca -batch -config $T/ca.cnf -preserveDN -in $T/$1.csr -out $1.pem -notext -extensions $2 -startdate ${3:-20200101000000Z} -enddate ${4:-21200101000000Z} ${5:--cert ca.pem -keyfile ca.key} -utf8 2>/dev/null; }
new ca "/O=Test/CN=Test CA"
sign ca root 20200101000000Z 21200101000000Z "-selfsign -keyfile ca.key"
new site "/CN=a.test"; sign site site
new other "/CN=b.test"; sign other other
new client "/C=DE/O=Widgets, Inc./OU=R\\+D/CN=Zoë"; sign client client
new expired "/CN=a.test"; sign expired site 20200101000000Z 20210101000000Z
rm -r $T ca.key

#!/bin/sh
# kubia: keeps what is POSTed to it in its own volume, and shows what every member of its StatefulSet keeps.
# Members are found as the notes on StatefulSets say: by a DNS SRV look-up of the governing service.
data=/var/data/kubia.txt
me=$(hostname)

stored() { if [ -s "$data" ]; then cat "$data"; else printf 'No data posted yet'; fi; }

if [ "$REQUEST_METHOD" = POST ]; then
    # Written beside and renamed, so that a kill never leaves half a file.
    head -c "${CONTENT_LENGTH:-0}" >"$data.new" && sync && mv "$data.new" "$data"
    printf 'Content-Type: text/plain\r\n\r\nData stored on pod %s\n' "$me"
    exit 0
fi

printf 'Content-Type: text/plain\r\n\r\n'
if [ "$QUERY_STRING" = local ]; then
    stored
    exit 0
fi

echo "You've hit $me (kubia $KUBIA_VERSION)"
echo "Data stored in the cluster:"
nslookup -type=srv "$KUBIA_SERVICE" 2>/dev/null | sed -n 's/.*service = [0-9]* [0-9]* \([0-9]*\) \([^ ]*[^ .]\)\.*$/\2 \1/p' | sort -u |
    while read -r host port; do
        printf -- '- %s: %s\n' "${host%%.*}" "$(wget -q -O - "http://$host:$port/?local" || echo unreachable)"
    done

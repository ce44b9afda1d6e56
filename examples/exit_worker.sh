#!/bin/sh
# An exit worker in POSIX shell: answers nothing itself, and tells the log which sessions there are.
# Everything it knows is spec/exits.md. A line of the server has no white space outside of texts.

field() { # what stands behind "$1": in $line
    rest=${line#*\""$1"\":}
    rest=${rest%%[,\}]*}
    rest=${rest#\"}
    printf '%s' "${rest%\"}"
}

echo '{"type":"hello","version":1,"families":["tls"],"holds":1000}'
while IFS= read -r line; do
    case $(field type) in
    refused) echo "refused: $line" >&2; exit 1 ;;
    question) ;;
    *) continue ;;
    esac
    number=$(field number) session=$(field session)
    case $(field point) in
    session-init) echo "session $session begins" >&2 ;;
    session-end) echo "session $session ends" >&2 ;;
    esac
    printf '{"type":"answer","number":%s,"session":"%s","return_code":0}\n' "$number" "$session"
done

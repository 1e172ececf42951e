# Completes the command `muster` in bash: eval "$(muster completion bash)"

_muster() {
    local line value typed="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    while IFS= read -r line; do
        case "$line" in
            :files) compopt -o default; return ;;
            :directories) compopt -o dirnames; return ;;
            "") continue ;;
        esac
        value="${line%%$'\t'*}"
        # Bash has split `--pool=night` at the sign, and replaces only what follows it.
        [[ $value == --*=* && $typed != --*=* ]] && value="${value#*=}"
        COMPREPLY+=("$value")
    done < <("${1/#\~/$HOME}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _muster muster

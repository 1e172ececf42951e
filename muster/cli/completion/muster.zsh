#compdef muster
# Completes the command `muster` in zsh: eval "$(muster completion zsh)"

_muster() {
    local line value
    local -a values shown
    for line in "${(@f)$("${(Q)words[1]/#\~/$HOME}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
            :files) _files; return ;;
            :directories) _files -/; return ;;
            '') continue ;;
        esac
        value=${line%%$'\t'*}
        values+=("$value")
        if [[ $line == *$'\t'* ]]; then
            shown+=("$value  -- ${line#*$'\t'}")
        else
            shown+=("$value")
        fi
    done
    # -U: an id may also have been typed by its end.
    (( ${#values} )) && compadd -U -l -d shown -a values
}

if [[ ${funcstack[1]} == _muster ]]; then
    _muster "$@"
else
    (( ${+functions[compdef]} )) || { autoload -Uz compinit && compinit; }
    compdef _muster muster
fi

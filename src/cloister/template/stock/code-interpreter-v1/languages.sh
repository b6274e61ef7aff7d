fc-cache -f
chown -R user:user /usr/local
Rscript -e 'for (name in c("httr", "jsonlite", "ggplot2", "dplyr", "evaluate")) library(name, character.only = TRUE)' > /dev/null
java -Xshare:auto -version

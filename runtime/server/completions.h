#ifndef LONGSPAN_RUNTIME_SERVER_COMPLETIONS_H_
#define LONGSPAN_RUNTIME_SERVER_COMPLETIONS_H_

#include <memory>
#include <string>

#include "runtime/server/call.h"

namespace longspan {

// Answers a request to /v1/completions or /v1/chat/completions: its prompts times `n` become
// generations of the serving loop, whose updates become one answer, or a stream of events.
void AnswerCompletions(std::shared_ptr<Call> call, const std::string& body, bool is_chat);

}  // namespace longspan

#endif  // LONGSPAN_RUNTIME_SERVER_COMPLETIONS_H_

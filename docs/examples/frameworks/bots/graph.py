"""LangGraph with its SQLite saver: opened in `start`, closed in `stop`.

Each agent has a file of its own, since SQLite lets one connection write at a time. It is named
after the agent's id, which stays the same: the next incarnation goes on where this one was.
"""

from contextlib import AsyncExitStack

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from bots import model
from muster import Agent, Context


class GraphBot(Agent):
    async def start(self, context: Context) -> None:
        self.open = AsyncExitStack()
        file = f"graph-{context.agent_id}.db"
        saver = await self.open.enter_async_context(AsyncSqliteSaver.from_conn_string(file))
        chat = ChatOpenAI(model=model.NAME, base_url=model.URL, api_key=model.KEY, max_retries=0)

        async def ask(state: MessagesState) -> dict[str, list[object]]:
            return {"messages": [await chat.ainvoke(state["messages"][-1:])]}

        graph = StateGraph(MessagesState)
        graph.add_node("ask", ask)
        graph.add_edge(START, "ask")
        graph.add_edge("ask", END)
        self.graph = graph.compile(checkpointer=saver)
        self.thread = {"configurable": {"thread_id": context.agent_id}}

    async def run(self, context: Context) -> None:
        await model.work(context, self.answer)

    async def answer(self, question: str) -> str:
        state = await self.graph.ainvoke({"messages": [HumanMessage(question)]}, self.thread)
        return str(state["messages"][-1].content)

    async def stop(self, _: Context) -> None:
        await self.open.aclose()
